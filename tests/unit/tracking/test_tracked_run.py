import os
import signal
import subprocess
import sys
import threading

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn, optim, zeros
from torch.utils.data import DataLoader

from affectgpt_r1.tracking.mlflow_logger import Terminated, TrackedMLFlowLogger
from affectgpt_r1.tracking.run_status import tracked_run


class Model(LightningModule):
    def __init__(self, at_step_two):
        super().__init__()
        self.weight = nn.Linear(1, 1)
        self.at_step_two = at_step_two

    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            self.at_step_two()
        return self.weight(batch).mean()

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.1)


def fit(logger, at_step_two, tmp_path):
    trainer = Trainer(
        max_steps=5,
        logger=logger,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(at_step_two), DataLoader(zeros(8, 1), batch_size=1))


def nothing():
    pass


def fail():
    raise ValueError("broken")


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def _status(logger):
    return logger.experiment.get_run(logger.run_id).info.status


@pytest.fixture(autouse=True)
def handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("event", "error", "status"),
    [
        (nothing, None, "FINISHED"),
        (fail, ValueError, "FAILED"),
        (interrupt, SystemExit, "KILLED"),
        (terminate, Terminated, "KILLED"),
    ],
)
def test_status_after_fit(logger, tmp_path, event, error, status):
    def run():
        with tracked_run([logger]):
            fit(logger, event, tmp_path)
            assert _status(logger) == "RUNNING"

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert _status(logger) == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no data"), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(2), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SIGTERMException(), "KILLED"),
    ],
)
def test_status_after_an_error_outside_fit(logger, error, status):
    with pytest.raises(type(error)), tracked_run([logger]):
        raise error
    assert _status(logger) == status


def test_signal_is_remembered_when_a_dying_worker_raises_first(logger):
    def both():
        try:
            terminate()
        finally:
            raise RuntimeError("DataLoader worker killed")

    with pytest.raises(RuntimeError), tracked_run([logger]):
        both()
    assert _status(logger) == "KILLED"


def test_second_sigterm_does_not_break_the_shutdown(logger):
    closed = []

    def terminated_twice():
        try:
            terminate()
        finally:
            terminate()
            closed.append(True)

    with pytest.raises(Terminated), tracked_run([logger]):
        terminated_twice()
    assert closed == [True]
    assert _status(logger) == "KILLED"


@pytest.mark.parametrize(("event", "status"), [(nothing, "FINISHED"), (fail, "FAILED"), (interrupt, "KILLED")])
def test_lightning_alone_sets_the_status_too(logger, tmp_path, event, status):
    try:
        fit(logger, event, tmp_path)
    except (ValueError, SystemExit):
        assert status != "FINISHED"
    assert _status(logger) == status


def test_sigterm_is_raised_without_any_logger():
    with pytest.raises(Terminated) as raised, tracked_run():
        terminate()
    assert raised.value.code == 143


def test_thread_other_than_the_main_one_can_track(logger):
    def work():
        with tracked_run([logger]):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert _status(logger) == "FINISHED"


SCRIPT = """
import sys, time
from affectgpt_r1.tracking.mlflow_logger import TrackedMLFlowLogger
from affectgpt_r1.tracking.run_status import tracked_run
logger = TrackedMLFlowLogger(sys.argv[1], "demo", run_folder=sys.argv[1])
with tracked_run([logger]):
    logger.keep_run_id()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_killed_process_exits_143_and_is_on_record(outputs):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(outputs)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    process.stdout.close()
    run_id = (outputs / "mlflow_run_id").read_text().strip()
    client = TrackedMLFlowLogger(outputs, "demo").experiment
    assert client.get_run(run_id).info.status == "KILLED"
