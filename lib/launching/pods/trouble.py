"""What ssh and rsync say when they fail -> what has happened and what to type."""

import re

# pattern in what they said -> the message; {host} is the host, {match} what stood in the pattern's brackets
SSH = (
    (
        r"Permissions \S+ for '(.+?)' are too open",
        "other users may read the key {match}; type: chmod 600 '{match}'",
    ),
    (
        r"Load key \"(.+?)\": bad permissions",
        "other users may read the key {match}; type: chmod 600 '{match}'",
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "{host} shows another host key than before. A new machine at an old address? Then type what ssh says "
        "(ssh-keygen -R ...); if not, somebody may be in between",
    ),
    (
        r"Host key verification failed",
        "the key of {host} is not known yet; type ssh {options}{host} and answer yes",
    ),
    (
        r"Permission denied \(",
        "{host} refuses the key; put your public key (cat ~/.ssh/id_*.pub) into the provider's settings or "
        "the host's ~/.ssh/authorized_keys, or name another with -i FILE; more says ssh -v {options}{host}",
    ),
    (r"Could not resolve hostname (\S+?):", "there is no host {match}; is the address right?"),
    (
        r"(Connection refused|(?:Connection|Operation) timed out|No route to host|Network is unreachable)",
        "{host} is not reached ({match}); is the machine on, and is -p its port for ssh?",
    ),
)
RSYNC = (
    (
        r"No space left on device|Disk quota exceeded",
        "a disk is full ({where}); make room and type the same again",
    ),
    (
        r"rsync: (?:command )?not found|rsync: No such file",
        "rsync is missing on {host}; type there: apt-get install rsync",
    ),
    (
        r"is your shell clean",
        "the shell of {host} prints something at its start (~/.bashrc), which rsync cannot read",
    ),
    (
        r"unknown option|unrecognized option",
        "this machine's rsync is too old; rsync 3.1 is needed (macOS: brew install rsync)",
    ),
)
FILE_ERROR = 11  # rsync's code
CUT = (
    "Connection reset",
    "Broken pipe",
    "connection unexpectedly closed",
    "closed by remote host",
    "Timeout, server",
)


def of_ssh(said: str, host: str, options: str) -> str | None:
    """None when it is nothing that is known."""
    return _message(SSH, said, host, options)


def of_rsync(said: str, code: int, host: str, options: str) -> str | None:
    """rsync reports the trouble of the ssh below it as well; of a full disk on the other side often only the
    code arrives (3 of 20 times)."""
    message = _message(RSYNC, said, host, options) or _message(SSH, said, host, options)
    if message is None and code == FILE_ERROR:
        return f"a disk is full or cannot be written (df -h here and on {host}); make room, type it again"
    return message


def is_cut(said: str) -> bool:
    """Was there a connection, which broke?"""
    return any(word in said for word in CUT)


def _message(table: tuple[tuple[str, str], ...], said: str, host: str, options: str) -> str | None:
    for pattern, message in table:
        if match := re.search(pattern, said):
            first = match[1] if match.groups() else match[0]
            return message.format(host=host, options=options, match=first, where=_last_line(said))
    return None


def _last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if "No space" in line or "quota" in line]
    return lines[0].strip() if lines else ""
