"""One trial: what is done to a run, what commands make of it, and the verdict."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.torture import facts, odd
from benchmarks.torture.base import Base
from benchmarks.torture.command import OUTSIDE, Blow, Child, Done, descendants, one
from benchmarks.torture.injure import IRREPLACEABLE, injure
from benchmarks.torture.trial import Trial

ROUNDS = 6  # of doing what messages say
WITH_RAY = """
from benchmarks.torture.cheap import cheap
from pipeline.cli import main
cheap(real=("ray", "workers"))
main()
"""
SHARES = {
    "damage": 60,
    "kill": 16,
    "disk": 8,
    "command": 8,
    "odd": 7,
    "ray": 1,
}  # of a hundred trials


def make(base: Base, name: str) -> Trial:
    """Do the trial of a name such as `damage-0-17`: kind, seed and number decide all that is random."""
    kind, seed, number = name.split("-")
    rng = np.random.default_rng([int(seed), int(number), sum(kind.encode())])
    trial, began, spent = Trial(name, kind), time.monotonic(), sum(os.times()[:4])
    kinds = {"damage": damage, "command": command, "kill": kill, "disk": disk, "odd": strange}
    {**kinds, "ray": ray}[kind](base, trial, rng)
    trial.seconds = round(time.monotonic() - began, 2)
    trial.cpu = round(sum(os.times()[:4]) - spent, 2)
    return trial


# --- kinds of trials ---------------------------------------------------------------------------------


def damage(base: Base, trial: Trial, rng: np.random.Generator) -> None:
    """Damage one file, rarely two, of a run at some stage; ask; repeat."""
    quiet, may_be_lost = _damage(base, trial, rng)
    wanted = tuple(name for name in facts.READING if rng.random() < 0.6)
    _ask(base, trial, quiet, wanted)
    _repeat(base, trial, may_be_lost)


def _damage(
    base: Base, trial: Trial, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], bool]:
    """Damage a run at some stage; return what it may say, and whether something is lost for good."""
    weights = [3 if stage == "finished" else 1 for stage in base.stages]
    stage = str(rng.choice(base.stages, p=np.array(weights) / sum(weights)))
    base.restore(stage)
    quiet, may_be_lost = [base.told[stage]], False
    for _ in range(2 if rng.random() < 0.08 else 1):
        kind, way, path, source = injure(base, stage, rng)
        trial.what = trial.what or kind
        trial.how = f"{trial.how} + {way}".strip(" +")
        trial.where = f"{trial.where} {stage}:{path}{' from ' + source if source else ''}".strip()
        may_be_lost |= kind in IRREPLACEABLE
        quiet += [base.told[source]] if source else []
        if path.startswith("trainings/400") and "older" in base.told:
            quiet.append(base.told["older"])  # the training before is the latest then
    return quiet, may_be_lost


EVERY = (
    *("check CONFIG", "plan -o RUN", "simulate -o RUN --leases", "train -o RUN", "evaluate -o RUN"),
    *("status -o RUN", "failures -o RUN", "report -o RUN", "track sync -o RUN", "cancel -o RUN"),
    *("store info -o RUN", "store verify -o RUN", "store repair -o RUN"),
    *("store export -o RUN --out OUT", "sample -o RUN --obs OBSERVATION --out OUT -n 20"),
    "submit CONFIG -o RUN --nodes 1 --time 1:00:00 --dry-run cluster.backend=slurm",
)


def command(base: Base, trial: Trial, rng: np.random.Generator) -> None:
    """Damage a run, then use any of the commands: done, or a clear error, and never a traceback."""
    _damage(base, trial, rng)
    places = {
        **{"CONFIG": base.config, "RUN": base.run, "OBSERVATION": base.observation},
        "OUT": base.disk / "tmp" / "draws.npz",
    }
    for line in rng.choice(EVERY, 6, replace=False):
        done = one(*(str(places.get(word, word)) for word in str(line).split()), timeout=120)
        if trial.judge(done) and done.code:
            trial.errors.append(done.message)


def _ask(base: Base, trial: Trial, quiet: list[dict[str, Any]], wanted: tuple[str, ...]) -> None:
    """Ask the commands that only read: the values of the quiet run, or less, or a clear error."""
    for name, now in facts.told(base, wanted).items() if wanted else ():
        if isinstance(now, Done):
            trial.judge(now)
            continue
        found = [facts.differs(name, one[name], now) for one in quiet]
        if name == "report" and len(quiet) > 1:
            found.append(_differs_from_both(quiet, now))
        if all(found):
            trial.bad("silent", f"{name} right after it", found[-1])
        elif found[0]:
            trial.notes.append(f"{name} tells an earlier state")


def _differs_from_both(quiet: list[dict[str, Any]], now: list[str]) -> str:
    """Compare a report of which one part is as it was before, and another as it is now.

    Pictures that show both were seen in neither.
    """
    known = [line for one in quiet if isinstance(one["report"], list) for line in one["report"]]
    return facts.differs("report", known, [one for one in now if not one.startswith("picture")])


COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "simulate": (("older", "simulating"), ("simulate", "-c", "CONFIG", "--leases")),
    "train": (("simulated", "training"), ("train",)),
    "evaluate": (("trained", "evaluating"), ("evaluate",)),
    "report": (("evaluated",), ("report",)),
    "track sync": (("evaluated",), ("track", "sync")),
    "first track sync": (("evaluated",), ("track", "sync")),
    "run": (("older", "simulating", "training", "evaluating"), ("run", "CONFIG")),
}


def _begin(base: Base, trial: Trial, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Choose a command and a stage at which it has something to do."""
    name = str(rng.choice(list(COMMANDS)))
    stages, words = COMMANDS[name]
    present = [stage for stage in stages if stage in base.stages]
    stage = present[int(rng.integers(len(present)))]
    base.restore(stage)
    if name == "first track sync":
        for path in base.run.glob("mlflow.db*"):
            path.unlink()
        shutil.rmtree(base.run / "artefacts", ignore_errors=True)
    trial.what, trial.where = name, stage
    return name, [str(base.config) if w == "CONFIG" else w for w in words] + ["-o", str(base.run)]


def kill(base: Base, trial: Trial, rng: np.random.Generator) -> None:
    """Kill or interrupt a command, up to three times, before a random change of a file or at a random time."""
    name, argv = _begin(base, trial, rng)
    seconds, events = base.cost.get(name.removeprefix("first "), (2.0, 100))
    members = int(rng.integers(1, 4)) if name == "simulate" else 1
    real = ("workers",) if name in ("simulate", "run") and rng.random() < 0.3 else ()
    pause = {"TORTURE_PAUSE": "0.003"} if real or members > 1 else {}
    for _ in range(int(rng.integers(1, 4))):
        blows = [_blow(rng, seconds, events) for _ in range(members)]
        trial.how = f"{trial.how}; {_shown(blows[0])}{f' x{members}' if members > 1 else ''}".strip(
            "; "
        )
        children = [Child([argv], blow=blow, variables=pause, real=real) for blow in blows]
        for child, blow in zip(children, blows, strict=True):
            (done,) = child.wait()
            _judge_blow(trial, done, blow)
            if child.left_behind:
                trial.bad("hang", f"{name}: processes outlive the killed driver")
    _repeat(base, trial, False)


def _blow(rng: np.random.Generator, seconds: float, events: int) -> Blow:
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    number = int(rng.choice(numbers, p=(0.66, 0.17, 0.17)))
    if rng.random() < 0.6:
        return Blow(event=int(rng.integers(1, events + 2)), number=number)
    victim = str(rng.choice(["driver", "child", "group"], p=(0.5, 0.25, 0.25)))
    return Blow(0, float(rng.uniform(0, 1.1 * seconds)), number, victim, pick=float(rng.random()))


def _shown(blow: Blow) -> str:
    name = signal.Signals(blow.number).name
    return (
        f"{name} at change {blow.event}"
        if blow.event
        else f"{name} of {blow.victim} after {blow.seconds:.2f} s"
    )


def _judge_blow(trial: Trial, done: Done, blow: Blow) -> None:
    """A killed command says nothing; an interrupted one leaves with code 4, or is done already."""
    if done.code < 0 and not done.hung:
        return
    if done.code == OUTSIDE and blow.number == signal.SIGINT:  # before or after the command itself
        return
    stopped = (0, 4, 130, 143) if blow.number != signal.SIGKILL else (0,)
    trial.judge(done, stopped)


def disk(base: Base, trial: Trial, rng: np.random.Generator) -> None:
    """Let the disk be full, or files be limited, while a command runs; then there is room again."""
    _, argv = _begin(base, trial, rng)
    room = int(2 ** rng.uniform(6, 19))
    real = ("workers",) if rng.random() < 0.1 else ()
    if os.path.ismount(base.disk) and rng.random() < 0.6:
        trial.how = f"{room} bytes left on the disk"
        with full(base.disk, room):
            done = one(*argv, real=real)
    else:
        trial.how = f"files of at most {room} bytes"
        done = one(*argv, real=real, blow=Blow(limit=room))
    trial.judge(done)
    if done.code:
        trial.errors.append(done.message)
    _repeat(base, trial, False)


class full:  # noqa: N801
    """Leave so many bytes on a tmpfs."""

    def __init__(self, path: Path, room: int) -> None:
        self.path, self.room = path, room

    def __enter__(self) -> None:
        space = os.statvfs(self.path)
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        _remount(self.path, used + self.room)

    def __exit__(self, *error: object) -> None:
        _remount(self.path, 2 << 30)


def _remount(path: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


def strange(base: Base, trial: Trial, rng: np.random.Generator) -> None:
    """Run an odd simulator twice with different numbers of workers."""
    odd.judge(base, trial, int(trial.name.rpartition("-")[2]))


def ray(base: Base, trial: Trial, rng: np.random.Generator) -> None:
    """Kill something of a whole `run` in a process of its own, with Ray; then repeat."""
    base.restore("older")
    words = [sys.executable, "-c", WITH_RAY, "run", str(base.config), "-o", str(base.run)]
    words.append("simulate.ray=true")
    variables = os.environ | {"TORTURE_PAUSE": "0.02"}
    log = base.home / "ray.log"
    with log.open("wb") as file:
        driver = subprocess.Popen(
            words, stdout=file, stderr=file, env=variables, start_new_session=True
        )
    limit, wait = time.monotonic() + 120, float(rng.uniform(0, 4))
    while driver.poll() is None and not any(base.run.glob("store/train/sessions/*/*.spool")):
        time.sleep(0.05)
        if time.monotonic() > limit:
            break
    time.sleep(wait)
    below = descendants(driver.pid)
    number = signal.Signals(int(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])))
    whom = str(rng.choice(["driver", "child"]))
    trial.what, trial.where = "run with Ray", "older"
    trial.how = f"{number.name} of {whom} after {wait:.2f} s of simulating"
    victim = below[int(rng.integers(len(below)))] if whom == "child" and below else driver.pid
    if driver.poll() is None:
        os.kill(victim, number)
    try:
        code = driver.wait(180)
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        code = driver.wait()
        trial.bad("hang", "run with Ray hangs after a kill", log.read_text()[-300:])
    err = log.read_text(errors="replace")
    done = Done(tuple(words[3:]), code, "", err)
    if whom == "child" and code == 1 and not done.clear and "core_worker" in err:
        trial.errors.append("Ray ended the driver, whose node it lost")  # in its own C++ code
    elif code > 0 and not done.hung:
        _judge_blow(trial, done, Blow(number=number))
    for pid in below:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _repeat(base, trial, False)


# --- the repeat --------------------------------------------------------------------------------------


def _repeat(base: Base, trial: Trial, may_be_lost: bool) -> None:
    """Repeat the run, doing what its messages say, until it is done; compare what it reports."""
    for _ in range(ROUNDS):
        done = one("run", str(base.config), "-o", str(base.run), timeout=120)
        if not trial.judge(done):
            return
        message = done.message
        if done.code == 0:
            now = facts.final(base)
            if not (message := now["verify"]):
                break
            if isinstance(message, Done):
                trial.judge(message)
                message = message.message
        if message in trial.errors or not advised(base, trial, message):
            if not may_be_lost:
                trial.bad("stuck", _cause(message), message)
            trial.errors.append(message)
            return
        trial.errors.append(message)
    else:
        trial.bad("stuck", "still fails after " + str(ROUNDS) + " repeats", trial.errors[-1])
        return
    latest = next(key for key in base.final["mlflow"] if re.match("400.* training", key))
    fewer = may_be_lost or " + " in trial.how or trial.what == "folder"
    changed = facts.differences(base.final, now, latest, fewer)
    for name, change in changed.items():
        if isinstance(now[name], Done) and now[name].traceback:
            trial.judge(now[name])
        else:
            trial.bad("silent", f"{name} after the repeat", change)


def advised(base: Base, trial: Trial, message: str) -> bool:
    """Do what a message says: commands in backticks, a file to delete, to repeat; False where it says nothing."""
    commands = re.findall(r"`(?:sbiflow|python -m pipeline) ([^`]+)`", message)
    acted = False
    for command in commands:
        words = ["CONFIG" if w.startswith("CONFIG") else w for w in command.split()]
        words = [str(base.config) if w == "CONFIG" else w for w in words]
        if "-o" not in words:
            words += ["-o", str(base.run)]
        words = [str(base.run) if w == "RUN" else w for w in words]
        acted |= trial.judge(one(*words, timeout=120))
    if re.search(r"\b(delete|remove)\b", message):
        places = re.findall(r"(/[^\s:;,()`']+)", message)
        inside = [Path(p) for p in places if Path(p).exists() and base.run in Path(p).parents]
        for path in inside[:1]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            acted = True
    return acted or bool(re.search(r"\brepeat|run (it|the command) again", message))


def _cause(message: str) -> str:
    """Return a message without what differs from trial to trial."""
    short = re.sub(r"/\S*/", "", message.splitlines()[0] if message else "no message")
    return re.sub(r"\d+-cmpe-\w+|[0-9a-f]{12,}|\b\d+\b", "N", short)[:150]
