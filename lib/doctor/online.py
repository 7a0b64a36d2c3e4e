"""What can be reached from here, as whom, and what time it is there. No token is ever said."""

import base64
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from lib.base.hub import first_line
from lib.base.source_code import ROOT
from lib.doctor.finding import FAIL, OK, WARN, Finding, judged
from lib.tracking import login

TIMEOUT_S = 4.0
MOST = 1 << 20  # bytes of an answer
WANDB = "https://api.wandb.ai"
# Signed addresses, from which the hub's files come, are refused at 15 minutes, certificates by the day; half
# a minute only puts the times of runs on two machines in a wrong order.
WRONG_S, ASKEW_S = 300.0, 30.0
FILES_MAY_BE_AHEAD_S = 60.0  # a network disk stamps files by its server's clock
CODE = ("lib", "scripts", "tests", "launch")
SET_CLOCK = "set the clock (as root: timedatectl set-ntp true, or date -s '...')"


@dataclass(frozen=True)
class Answer:
    code: int
    body: str
    date: str | None


def ask(url: str, headers: Mapping[str, str], question: bytes | None = None) -> Answer:
    """Any answer counts, also a refusal. Raises OSError when there is none."""
    request = urllib.request.Request(url, question)
    for name, value in headers.items():
        request.add_unredirected_header(name, value)  # a token is for this host alone
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=_certificates()) as answer:
            return Answer(answer.status, answer.read(MOST).decode(errors="replace"), answer.headers["Date"])
    except urllib.error.HTTPError as error:
        return Answer(error.code, "", error.headers["Date"])


def _certificates() -> ssl.SSLContext:
    """Those of the system (or SSL_CERT_FILE), and those that the hub's own library brings along: a small
    container has none."""
    context = ssl.create_default_context()
    try:
        import certifi
    except ModuleNotFoundError:
        return context
    context.load_verify_locations(certifi.where())
    return context


def hub() -> Finding:
    """Can the Hugging Face hub be reached, and who is logged in?"""
    from huggingface_hub import constants, get_token

    endpoint, token = constants.ENDPOINT, get_token()
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", OK, "not asked: HF_HUB_OFFLINE is set", facts={"offline": True})
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = ask(f"{endpoint}/api/whoami-v2", headers)
    except OSError as error:
        return _unreachable("hub", endpoint, error, "--model minilm and --data sample need none")
    facts = {"endpoint": endpoint, "reached": True, "http": answer.code, "token": token is not None}
    if answer.code == 401 and token:
        seen = f"{endpoint} refuses the token that is here (HTTP 401), hence public models too"
        return Finding("hub", FAIL, seen, "hf auth login with a new one, or unset HF_TOKEN", facts)
    if answer.code == 401:
        advice = "for gated models (boolq's and german_rag's) type hf auth login, or set HF_TOKEN"
        return Finding("hub", WARN, f"{endpoint} answers; nobody is logged in", advice, facts)
    if answer.code != 200:
        return Finding("hub", WARN, f"{endpoint} answers with HTTP {answer.code}", "try again later", facts)
    who = _field(answer.body, "name")
    return Finding("hub", OK, f"{endpoint} answers, logged in as {who}", facts=facts | {"user": who})


def wandb() -> Finding:
    """Can Weights & Biases be reached, and who is logged in? Only --wandb needs it."""
    base = (os.environ.get("WANDB_BASE_URL") or WANDB).rstrip("/")
    if (mode := os.environ.get("WANDB_MODE", "online")) in ("offline", "disabled", "dryrun"):
        return Finding("wandb", OK, f"not asked: WANDB_MODE is {mode}", facts={"offline": True})
    key = os.environ.get("WANDB_API_KEY") or login.key_in_netrc({urlsplit(base).hostname, login.PUBLIC})
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    try:
        answer = ask(f"{base}/graphql", headers, b'{"query": "query { viewer { username } }"}')
    except OSError as error:
        return _unreachable("wandb", base, error, "--wandb offline, and wandb sync later")
    facts = {"endpoint": base, "reached": True, "http": answer.code, "token": key is not None}
    who = _field(answer.body, "username") if answer.code == 200 else None
    if key is None:
        return Finding(
            "wandb", WARN, f"{base} answers; nobody is logged in", "for --wandb type wandb login", facts
        )
    if answer.code in (401, 403) or (answer.code == 200 and who is None):
        seen = f"{base} answers, but refuses the key that is here"
        return Finding("wandb", FAIL, seen, "wandb login --relogin, or unset WANDB_API_KEY", facts)
    if who is None:
        return Finding("wandb", WARN, f"{base} answers with HTTP {answer.code}", "try again later", facts)
    return Finding("wandb", OK, f"{base} answers, logged in as {who}", facts=facts | {"user": who})


def clock(root: Path = ROOT) -> Finding:
    """This machine's clock, against the hub's and the files of this project."""
    now_s = time.time()
    ahead_s = _newest_s(root) - now_s
    local = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now_s))
    if ahead_s > FILES_MAY_BE_AHEAD_S:
        seen = f"{local}, {_span(ahead_s)} before the newest file of {root}"
        return Finding("clock", FAIL, seen, SET_CLOCK, {"behind_files_s": ahead_s})
    off_s, why = _against_hub(now_s)
    if off_s is None:
        return Finding("clock", OK, f"{local}; could not be compared: {why}", facts={"off_s": None})
    seen = f"{local}, {_span(abs(off_s))} {'ahead of' if off_s > 0 else 'behind'} the hub's"
    if abs(off_s) > WRONG_S:
        return Finding("clock", FAIL, seen, SET_CLOCK, {"off_s": off_s})
    trouble = SET_CLOCK if abs(off_s) > ASKEW_S else ""
    return judged(Finding("clock", OK, seen, facts={"off_s": off_s}), trouble)


def _against_hub(now_s: float) -> tuple[float | None, str]:
    """Seconds by which this clock is ahead, or why nobody knows."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set"
    try:
        date = ask(f"{constants.ENDPOINT}/api/whoami-v2", {}).date
        took_s = time.time() - now_s
        there_s = parsedate_to_datetime(date or "").timestamp() + 0.5  # of whole seconds, cut
    except OSError as error:
        return None, f"the hub cannot be reached ({_reason(error)})"
    except ValueError:
        return None, "the hub's answer has no date"
    return now_s + took_s / 2 - there_s, ""


def _newest_s(root: Path) -> float:
    paths = [
        path for folder in CODE for path in (root / folder).rglob("*") if "__pycache__" not in path.parts
    ]
    return max(
        path.lstat().st_mtime for path in (*paths, *root.glob("*.txt"), *root.glob("*.md"), root / "lib")
    )


def _span(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _field(body: str, name: str) -> str | None:
    """The first value of that name in a JSON answer, however deep; None when there is none."""

    def find(value: object) -> str | None:
        if isinstance(value, dict):
            if isinstance(value.get(name), str):
                return str(value[name])
            return next(filter(None, map(find, value.values())), None)
        return None

    try:
        return find(json.loads(body))
    except ValueError:
        return None


def _reason(error: OSError) -> str:
    """What urllib was told, without what it puts around."""
    return first_line(getattr(error, "reason", None) or error)


def _unreachable(name: str, where: str, error: OSError, instead: str) -> Finding:
    seen = f"{where} cannot be reached ({_reason(error)})"
    return Finding(name, WARN, seen, instead, {"endpoint": where, "reached": False})
