"""A real Slurm on one machine: munged, slurmctld and a slurmd for each node, without systemd or cgroups.

Nodes are addresses of the loopback network and share everything else: files, processes, the clock. They claim
more cores than there are.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOSTS = Path("/etc/hosts")
CONF = """\
ClusterName=meditron-test
SlurmctldHost={host}({address}.254)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job is held back: 120 s by default and where it is below 5
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=5
# a node that is gone is noticed after 15 to 18 s; with the defaults after 300 s and more
MessageTimeout=4
SlurmdTimeout=10
ReturnToService=2
TreeWidth=65533
MinJobAge=3600
AccountingStorageType=accounting_storage/none
NodeName=DEFAULT CPUS=32 RealMemory=100000 State=UNKNOWN
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=10 MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no cluster can run here; None when it can. Installs Debian's packages where that is allowed."""
    if os.geteuid() != 0:
        return "starting Slurm's daemons needs root"
    missing = [package for command, package in PACKAGES.items() if shutil.which(command, path=PATH) is None]
    if not missing:
        return None
    if shutil.which("apt-get") is None:
        return f"{', '.join(missing)} are not installed, and there is no apt-get"
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True)
    return None if done.returncode == 0 else f"{', '.join(missing)} cannot be installed: {done.stderr[-200:]}"


@dataclass(kw_only=True)
class Cluster:
    """A running cluster.

    Args:
        number: distinguishes clusters that run at the same time.
        size: how many nodes.
    """

    number: int
    size: int = 4
    folder: Path = field(init=False)

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return [f"med{self.number}n{index}" for index in range(1, self.size + 1)]

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # socket paths must be short
        self._write_conf()
        self._name_hosts(True)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        socket = f"--socket={self.folder}/munge.sock"
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--force", socket, *files)
        self._daemon("slurmctld", "-f", str(self.folder / "slurm.conf"))
        for node in self.nodes:
            self.start_slurmd(node)
        until(lambda: self.run("sinfo", "-h", "-o", "%T %D").strip() == f"idle {self.size}", 60)

    def stop(self) -> None:
        """End all jobs and daemons, and leave no trace."""
        with contextlib.suppress(AssertionError):
            self.empty()
        for name in ("slurmctld", *(f"slurmd.{node}" for node in self.nodes), "munge"):
            self._kill(f"{name}.pid", signal.SIGKILL)
        self._kill_tasks(self.nodes)
        self._name_hosts(False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def empty(self) -> None:
        """End all jobs."""
        self.run("scancel", "--user=root")
        until(lambda: not self.run("squeue", "-h").strip(), 20)

    def run(self, *words: str) -> str:
        """Output of one of Slurm's commands."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout

    def start_slurmd(self, node: str) -> None:
        """Start a node's daemon."""
        self._daemon("slurmd", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def kill_slurmd(self, node: str) -> None:
        """Kill a node's daemon alone: its tasks run on, and the controller takes the node for dead."""
        self._kill(f"slurmd.{node}.pid", signal.SIGKILL)

    def kill_node(self, node: str) -> None:
        """Power loss: kill the daemon and all that runs on the node."""
        self.kill_slurmd(node)
        self._kill_tasks([node])

    def state(self, job: str) -> str:
        """State of a job, or of one task of an array."""
        shown = self.run("scontrol", "show", "job", job)
        words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        return words.get("JobState", "")

    def _write_conf(self) -> None:
        base = 17000 + 100 * self.number
        address = f"127.66.{self.number}"
        host = os.uname().nodename
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr={address}.{index} Port={base + index}"
            for index, node in enumerate(self.nodes, start=1)
        )
        (self.folder / "state").mkdir()
        text = CONF.format(host=host, address=address, port=base, folder=self.folder, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text)

    def _name_hosts(self, wanted: bool) -> None:
        """Add the nodes to /etc/hosts, or remove them; in place, it may be a mount."""
        mark = f"# meditron test cluster {self.number}"
        lines = [line for line in HOSTS.read_text().splitlines() if not line.endswith(mark)]
        if wanted:
            lines += [f"127.66.{self.number}.{i} {node} {mark}" for i, node in enumerate(self.nodes, start=1)]
        HOSTS.write_text("\n".join(lines) + "\n")

    def _daemon(self, *words: str) -> None:
        environment = {"PATH": PATH, "LANG": "C.UTF-8", **self.environment}
        with open(self.folder / "daemons.out", "ab") as out:
            null = subprocess.DEVNULL
            done = subprocess.run(words, env=environment, cwd="/", stdin=null, stdout=out, stderr=out)
        assert done.returncode == 0, (self.folder / "daemons.out").read_text()

    def _kill(self, pid_file: str, number: signal.Signals) -> None:
        path = self.folder / pid_file
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text())
            os.kill(pid, number)
            until(lambda: not is_alive(pid), 10)
            path.unlink(missing_ok=True)

    def _kill_tasks(self, nodes: list[str]) -> None:
        marks = [f"SLURMD_NODENAME={node}".encode() for node in nodes]
        for pid, environment in processes():
            if any(mark in environment for mark in marks):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def processes() -> Iterator[tuple[int, list[bytes]]]:
    """Process id and environment of everything that runs here."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes().split(b"\0")


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
