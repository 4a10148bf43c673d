"""Read frames, sound and subtitles of one clip. decord, PyAV and torchaudio are imported here only."""
