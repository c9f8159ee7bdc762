import pytest

from launch.explain import explain

GPU = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
LOST = "[rank3]: RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
NCCL = "[Rank 5] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=81, OpType=ALLREDUCE)"


@pytest.mark.parametrize(
    ("state", "log", "cause"),
    [
        ("FAILED", GPU, "GPU out of memory"),
        ("FAILED", f"{GPU}\n{LOST}\n{NCCL}", "GPU out of memory"),
        ("FAILED", NCCL, "processes lost each other"),
        ("FAILED", LOST, "processes lost each other"),
        ("OUT_OF_MEMORY", "", "out of memory"),
        ("FAILED", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", "out of memory"),
        ("NODE_FAIL", "", "node failure"),
        (
            "TIMEOUT",
            "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***",
            "time limit",
        ),
        ("FAILED", "meditron: runs/x: the disk is full", "disk full"),
        ("CANCELLED", "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-26T02:02:56 ***", "cancelled"),
        ("FAILED", "meditron: the nodes are not fit for pretrain; see above", "unfit nodes"),
        ("FAILED", "3 starts in a row of pretrain brought no new checkpoint", "no progress"),
    ],
)
def test_the_first_cause_is_told(state: str, log: str, cause: str) -> None:
    told = explain({"JobState": state, "ExitCode": "1:0"}, log)
    assert told.startswith(f"{cause}: ")
    assert "\n" not in told


def test_an_unknown_failure_shows_the_last_words() -> None:
    told = explain({"JobState": "FAILED", "ExitCode": "2:0"}, "a\nmeditron: x.lr: 5 is too much\nsrun: error")
    assert told == "failed (exit code 2:0). The log ends with: 'meditron: x.lr: 5 is too much'."
    assert explain({"JobState": "FAILED"}, "") == "failed (exit code unknown). It left no output."


def test_only_the_last_start_of_a_job_is_explained() -> None:
    starts = [f"==> start {number} of job 7 on n[1-2]\n" for number in (1, 2)]
    log = f"{starts[0]}{GPU}\n{starts[1]}{NCCL}\n"
    assert explain({"JobState": "FAILED"}, log).startswith("processes lost each other: ")
    assert explain({"JobState": "FAILED"}, f"{starts[0]}{GPU}\n{starts[1]}").endswith("It left no output.")


def test_what_slurm_has_forgotten_is_explained_by_its_log() -> None:
    assert explain({}, NCCL).startswith("processes lost each other: ")
    assert explain({}, "a\n") == "failed (exit code unknown). The log ends with: 'a'."
