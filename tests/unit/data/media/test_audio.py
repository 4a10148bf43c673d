import sys

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from affectgpt_r1.data.media import audio
from affectgpt_r1.data.media.audio import audio_windows, log_mel, read_audio_windows, read_waveform, resample
from affectgpt_r1.errors import AffectGPTError, MediaError


def starts(waveform_length, **options):
    return audio_windows(torch.arange(waveform_length), **options)[:, 0].tolist()


def test_window_starts_are_evenly_spaced():
    # 9 s: seven steps of one second over [0, 7].
    assert starts(144_000) == [16_000 * second for second in range(8)]
    # 2.7 s: seven steps of 0.1 s over [0, 0.7].
    assert starts(43_200) == [1_600 * step for step in range(8)]
    assert starts(32_000) == [0] * 8
    assert starts(30, rate=10, count=3, seconds=2.0) == [0, 5, 10]
    assert starts(30, rate=10, count=1, seconds=2.0) == [0]


def test_a_clip_shorter_than_a_window_keeps_its_sound_and_ends_in_silence():
    windows = audio_windows(torch.ones(20), rate=16, count=2, seconds=2.0)
    assert windows.shape == (2, 32)
    assert windows.sum(dim=1).tolist() == [20, 20]
    assert windows[:, 20:].abs().max() == 0


def test_wav_channels_are_averaged(tmp_path, write_wav):
    stereo, rate = read_waveform(write_wav(tmp_path / "a.wav", channels=2))
    mono, _ = read_waveform(write_wav(tmp_path / "b.wav"))
    assert rate == 16_000
    assert stereo.dtype == np.float32
    assert stereo.shape == (40_000,)
    np.testing.assert_allclose(stereo, 0.75 * mono, atol=1e-4)


def test_mp4_track_sounds_like_the_wav(tmp_path, write_wav, write_mp4):
    track, rate = read_waveform(write_mp4(tmp_path / "a.mp4", num_frames=24, hertz=440))
    assert rate == 16_000
    # AAC adds a frame of 1024 samples before and fills the last one.
    assert 0 <= track.shape[0] - 48_000 < 2048
    middle = track[16_000:32_000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 440
    assert middle.std() == pytest.approx(0.5 / 2**0.5, rel=0.03)


def test_other_rates_are_resampled(tmp_path, write_wav):
    windows = read_audio_windows(write_wav(tmp_path / "a.wav", seconds=3, rate=44_100, hertz=1000))
    assert windows.shape == (8, 32_000)
    assert windows.dtype == torch.float32
    assert torch.fft.rfft(windows[3]).abs().argmax() == 2000
    assert resample(torch.ones(480), 48_000).shape == (160,)


def test_odd_rates_need_no_huge_filter():
    for rate, hertz in ((11_127, 500), (44_101, 1000)):  # 16 kHz shares no factor with them
        tone = torch.sin(torch.arange(2 * rate) * (2 * torch.pi * hertz / rate))
        heard = resample(tone, rate)
        assert heard.shape[0] == pytest.approx(32_000, abs=32)
        assert torch.fft.rfft(heard[:32_000]).abs().argmax() == 2 * hertz
    waveform = torch.randn(4410)
    expected = torchaudio.functional.resample(waveform, 44_100, 16_000)
    assert resample(waveform, 44_100).equal(expected)


def test_log_mel_finds_the_band_of_a_tone():
    time = torch.arange(32_000) / 16_000
    tones = torch.stack([torch.sin(2 * torch.pi * hertz * time) for hertz in (250.0, 4000.0)])
    energies = log_mel(tones, num_mels=32)
    assert energies.shape == (2, 201, 32)
    # Mel scale 2595 log10(1 + f / 700): 33 steps up to 8 kHz; the bands nearest to 250 Hz and 4 kHz.
    step = 2595 * np.log10(1 + 8000 / 700) / 33
    expected = [round(2595 * np.log10(1 + hertz / 700) / step) - 1 for hertz in (250, 4000)]
    assert energies.mean(dim=1).argmax(dim=-1).tolist() == expected
    assert log_mel(torch.zeros(1, 400), num_mels=32).unique().tolist() == pytest.approx([np.log(1e-6)])


def test_zero_byte_wav(tmp_path):
    (tmp_path / "a.wav").touch()
    with pytest.raises(MediaError, match=r"a\.wav: cannot be read as sound"):
        read_waveform(tmp_path / "a.wav")


def test_wav_without_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), 16_000)
    with pytest.raises(MediaError, match=r"a\.wav: the sound is empty"):
        read_waveform(tmp_path / "a.wav")


def test_wav_that_is_not_finite(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, np.nan, 0.1]), 16_000, subtype="FLOAT")
    with pytest.raises(MediaError, match=r"a\.wav: .*not finite"):
        read_waveform(tmp_path / "a.wav")


def test_mp4_without_audio(tmp_path, write_mp4):
    with pytest.raises(MediaError, match=r"a\.mp4: has no audio track"):
        read_waveform(write_mp4(tmp_path / "a.mp4", sound=False))


def test_text_named_mp4_and_missing_files(tmp_path):
    (tmp_path / "a.mp4").write_text("text")
    with pytest.raises(MediaError, match=r"a\.mp4: cannot be read as video or sound"):
        read_waveform(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match=r"b\.wav: no such file"):
        read_waveform(tmp_path / "b.wav")


def test_a_torchaudio_that_does_not_load_is_no_media_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(AffectGPTError, match=r"torchaudio cannot be loaded .*constraints\.txt") as caught:
        audio.resample(torch.zeros(10), 8_000)
    assert not isinstance(caught.value, MediaError)


def test_published_windows_start_at_eighths_and_are_centred():
    ramp = torch.arange(144_000, dtype=torch.float64)  # 9 s: eighths of the 7 s that a window leaves
    windows = audio_windows(ramp, rule="published")
    assert (windows[:, 0] - windows[0, 0]).tolist() == [0.0] * 8  # centred: each window's own mean is gone
    assert windows.mean(1).abs().max() < 1e-9
    starts = audio.window_starts(144_000, 16_000, 8, 2.0, "published")
    assert starts == [14_000 * index for index in range(8)]
    assert audio.window_starts(84_800, 16_000, 8, 2.0, "published")[1] == 6599  # of the float 5.3 s, not of 53 / 10
    assert audio.window_starts(32_000, 16_000, 8, 2.0, "published") == [0] * 8
