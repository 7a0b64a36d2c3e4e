"""What follows when a command of a queue has ended, who begins next, and what is typed."""

import multiprocessing
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lib.launching.pods import asked, copies, policy, programs, tokens, trouble
from lib.launching.pods.entries import Asked, Contents, Entry, Queue
from lib.launching.pods.policy import Ended, Mark, follows

TRAIN = ["scripts/train.py", "arena"]
ONCE = Entry(1, Asked(TRAIN, restarts=3), state="running", attempts=1)


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_must_not_be_retried_is_not(code: int) -> None:
    assert follows(ONCE, Ended(code, Mark("a", 5)))[0] == "failed"
    assert follows(ONCE, Ended(code, Mark("a", 5), asked_to_stop=True))[0] == "failed"


@pytest.mark.parametrize("code", [1, 75, -9, -15, 137])
def test_a_crash_and_a_stop_by_the_machine_begin_again_unless_somebody_asked(code: int) -> None:
    assert follows(ONCE, Ended(code, Mark("a", 5)))[0] == "restarting"
    assert follows(ONCE, Ended(code, Mark("a", 5), asked_to_stop=True))[0] == "stopped"
    assert follows(ONCE, Ended(0, Mark("a", 5), asked_to_stop=True))[0] == "done"


@pytest.mark.parametrize(
    ("before", "now", "state"),
    [
        (Mark("a", 5), Mark("a", 6), "restarting"),
        (Mark("a", 5), Mark("a", 5), "failed"),
        (Mark(), Mark(), "failed"),  # it never got to a run
        (Mark("a", 0), Mark("b", 0), "failed"),  # each began a run, none saved a step
        (Mark("a", 5), Mark("b", 1), "restarting"),  # the next trial of a sweep
        (Mark("a", 5, 4096), Mark("a", 5, 2048), "restarting"),  # less memory is tried
        (Mark("a", 5, 2048), Mark("a", 5, 2048), "failed"),
    ],
)
def test_a_restart_that_got_no_further_is_the_last(before: Mark, now: Mark, state: str) -> None:
    twice = replace(ONCE, attempts=2)
    assert follows(twice, Ended(1, now, before))[0] == state


def test_restarts_have_a_limit() -> None:
    # 3 restarts are 4 attempts
    for attempts, state in ((3, "restarting"), (4, "failed")):
        entry = replace(ONCE, attempts=attempts)
        assert follows(entry, Ended(1, Mark("a", attempts), Mark("a", attempts - 1)))[0] == state


def test_waits_double_up_to_ten_minutes() -> None:
    waits = [policy.wait_s(replace(ONCE, attempts=attempts)) for attempts in (1, 2, 3, 7, 50)]
    assert waits == [10, 20, 40, 600, 600]  # 10 * 2 ** 6 = 640 is beyond 600


def test_torchruns_1_means_what_status_json_says_and_no_other_code_does() -> None:
    assert [policy.settled(1, status) for status in (3, 75, None, 0)] == [3, 75, 1, 1]
    assert policy.settled(-9, 3) == -9


@pytest.mark.parametrize("words", [["--resume", "never"], ["--resume=never"]])
def test_a_restart_of_a_new_run_goes_on_with_that_run(words: list[str]) -> None:
    again = policy.again(Asked([*TRAIN, *words, "--name", "never"]))
    assert " ".join(again).replace("=", " ") == "scripts/train.py arena --resume auto --name never"


def queue(*entries: Entry) -> list[Entry]:
    return [replace(entry, number=number) for number, entry in enumerate(entries, 1)]


def on_gpus(count: int | None, *devices: str) -> Entry:
    return Entry(0, Asked(TRAIN, gpus=count), "running" if devices else "waiting", devices=list(devices))


@pytest.mark.parametrize(
    ("entries", "begins"),
    [
        ([on_gpus(None)], (1, [])),
        ([replace(on_gpus(None), state="running"), on_gpus(1)], None),
        ([replace(on_gpus(None), state="restarting"), on_gpus(None)], None),
        ([on_gpus(1, "0"), on_gpus(1)], (2, ["1"])),
        ([on_gpus(1, "0"), on_gpus(2, "1", "2"), on_gpus(1)], None),
        ([on_gpus(1, "1"), on_gpus(2)], (2, ["0", "2"])),
        ([on_gpus(1, "1"), on_gpus(3), on_gpus(1)], None),  # nobody overtakes
        ([on_gpus(1, "0"), on_gpus(None), on_gpus(1)], None),
        ([], None),
    ],
)
def test_one_after_another_or_each_on_gpus_of_its_own(
    entries: list[Entry], begins: tuple[int, list[str]] | None
) -> None:
    found = policy.next_to_begin(queue(*entries), ["0", "1", "2"])
    assert (found and (found[0].number, found[1])) == begins


def test_a_command_stands_once_in_the_queue() -> None:
    contents, first, begins = Contents().queued(Asked(TRAIN), True)
    assert (first.number, begins) == (1, True)
    assert contents.queued(Asked(TRAIN), True)[1:] == (first, False)
    failed = contents.with_entry(replace(first, state="failed", attempts=4))
    again, entry, begins = failed.queued(Asked(TRAIN), False)
    assert (entry.number, entry.state, entry.attempts, begins) == (1, "waiting", 0, True)
    assert [one.number for one in again.queued(Asked([*TRAIN, "--lr", "1"]), True)[0].entries] == [1, 2]


def queue_thirty(root: Path, who: str) -> None:
    shared = Queue(root)
    for number in range(30):
        with shared.locked():
            shared.write(shared.read().queued(Asked([who, str(number)]), False)[0])


def test_two_who_queue_at_once_lose_no_command(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=queue_thirty, args=(tmp_path, who)) for who in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    entries = Queue(tmp_path).read().entries
    assert sorted(one.number for one in entries) == list(range(1, 61))
    assert {one.asked.command for one in entries} == {f"{who} {n}" for who in "ab" for n in range(30)}


def test_the_supervisor_is_never_taken_for_a_stranger_with_an_old_number(tmp_path: Path) -> None:
    shared = Queue(tmp_path)
    assert shared.supervisor() is None
    lock = shared.supervise()
    assert shared.supervisor() == os.getpid()
    # the one before had this number at another time, and the new one writes down its own a little later
    (tmp_path / ".pod" / "supervisor.lock").write_text(f"{os.getpid()} before")
    late = threading.Timer(
        0.1, lambda: shared._alive.write_text(f"{os.getpid()} {programs.born(os.getpid())}")
    )
    late.start()
    begun_s = time.monotonic()
    assert shared.supervisor() == os.getpid() and time.monotonic() - begun_s > 0.09
    lock.release()
    assert shared.supervisor() is None


@pytest.mark.parametrize("has_record", [True, False])
def test_what_is_done_is_asked_for_its_record_or_stays_done(has_record: bool) -> None:
    done = Contents("idle", [replace(ONCE, state="done")])
    assert done.queued(Asked(TRAIN), has_record)[2] == has_record


def test_a_queue_file_has_a_command_a_line(tmp_path: Path) -> None:
    file = tmp_path / "queue.txt"
    file.write_text("# a comment\n\nscripts/train.py arena --name 'a b'  # why\nscripts/train.py boolq\n")
    assert asked.lines_of(file) == [
        (f"{file}, line 3", ["scripts/train.py", "arena", "--name", "a b"]),
        (f"{file}, line 4", ["scripts/train.py", "boolq"]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scripts/train.py arena\nscripts/train.py 'arena\n", r"line 2: No closing quotation"),
        ("scripts/train.py arena\n\nscripts/train.py  arena\n", "line 3 is line 1 once more"),
        ("# nothing\n", "holds no command"),
    ],
)
def test_a_malformed_queue_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "queue.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        asked.lines_of(tmp_path / "queue.txt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scripts/trian.py"], "there is no scripts/trian.py"),
        (["no-such-program"], "there is no program no-such-program"),
        ([*TRAIN, "--bacth", "3"], "--bacth"),
        ([*TRAIN, "--batch", "0"], "--batch is 0"),
        (["python", "scripts/train.py", "arnea"], "did you mean 'arena'"),
    ],
)
def test_a_command_that_could_not_begin_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        programs.check(words)


def test_commands_that_can_begin_are_taken() -> None:
    for words in (TRAIN, ["python", *TRAIN], ["launch/run.sh", "arena"], ["torchrun", *TRAIN], ["true"]):
        programs.check(words)


def test_tokens_come_from_the_environment_and_a_file_which_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "one")
    monkeypatch.setenv("WANDB_API_KEY", "two")
    (tmp_path / "env").write_text("# mine\nexport HF_TOKEN='three'\nWANDB_PROJECT=a b\n\n")
    assert tokens.gathered(None) == {"HF_TOKEN": "one", "WANDB_API_KEY": "two"}
    assert tokens.gathered(tmp_path / "env") == {
        "HF_TOKEN": "three",
        "WANDB_API_KEY": "two",
        "WANDB_PROJECT": "a b",
    }
    (tmp_path / "env").write_text("HF_TOKEN=a\nhf_secret\n")
    with pytest.raises(ValueError, match="line 2 is not NAME=value") as error:
        tokens.gathered(tmp_path / "env")
    assert "hf_secret" not in str(error.value)


def test_what_is_kept_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    tokens.keep(file, {"A": "1", "B": "2"})
    tokens.keep(file, {"B": "3"})
    assert tokens.kept(file) == {"A": "1", "B": "3"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "Permissions 0644 for '/me/a key' are too open.\nPermission denied (publickey).",
            "chmod 600 '/me/a key'",
        ),
        ("root@pod: Permission denied (publickey).", "pod refuses the key"),
        ("ssh: connect to host 10.0.0.1 port 22: Connection refused", "not reached (Connection refused)"),
        ("ssh: Could not resolve hostname nopod: Name or service not known", "there is no host nopod"),
        ("Host key verification failed.", "type ssh -p 7 pod and answer yes"),
    ],
)
def test_what_ssh_says_becomes_what_to_type(said: str, message: str) -> None:
    assert message in str(trouble.of_ssh(said, "pod", "-p 7 "))


def test_what_rsync_says_becomes_what_to_type() -> None:
    full = 'rsync: [receiver] write failed on "/x/a": No space left on device (28)'
    assert "a disk is full" in str(trouble.of_rsync(full, 11, "pod", ""))
    assert "a disk is full or" in str(trouble.of_rsync("", 11, "pod", ""))
    missing = "bash: line 1: rsync: command not found\nrsync: connection unexpectedly closed"
    assert "rsync is missing on pod" in str(trouble.of_rsync(missing, 12, "pod", ""))


def test_files_and_runs_of_a_copy_are_counted() -> None:
    lines = [">f+++++++++ 800 arena/20250101_120000/status.json", "cd+++++++++ 4096 arena/20250101_120000/"]
    lines += [">f.st...... 1200 arena/20250101_120000-a b/x/y.bin", ">f+++++++++ 5 top"]
    copied = copies.counted("\n".join(lines))
    assert (copied.files, copied.size) == (3, 2005)
    assert copied.runs == {"arena/20250101_120000", "arena/20250101_120000-a b"}
