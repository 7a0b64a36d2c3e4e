"""Downloads what a run of a recipe would download, through the code that the run reads it with; no weight is
put into memory. What is missing (a licence, a token, a network) is named with what to do."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from lib import recipe as recipes
from lib.base import hub
from lib.base.hub import first_line
from lib.config import ChooseConfig, Config
from lib.doctor.finding import FAIL, GB, OK, Finding

PAGE = {"model": "https://huggingface.co", "data": "https://huggingface.co/datasets"}
NO_RIGHT = (401, 403)
Kind = str  # model, data or index: the name of a finding


def fetch(config: Config) -> Iterator[Finding]:
    """Model, data, and the model of an index where there is one."""
    yield _guarded("model", config.model.model, lambda: model(config))
    yield _guarded("data", config.data.data, lambda: data(config))
    if isinstance(config.task, ChooseConfig) and config.task.index is not None:
        yield _guarded("index", config.task.index, lambda: index(config))


def model(config: Config) -> Finding:
    """Configuration, tokenizer and weights; the files only. Raises what the loading raises."""
    from lib.models import backbone
    from lib.tasks import make as make_task

    name, settings = config.model.model, config.model
    here = name in backbone.OWN or Path(name).exists()
    away = "" if here else _why_away(name, settings.model_revision)
    try:
        task = make_task(recipes.load(config.recipe), config)
        task.check()
        weights = [] if name == "tiny" or settings.init == "random" else backbone.files(task.described)
    except Exception as error:
        if away and _http_code(error) is None:
            raise hub.UnreachableError(away) from error
        raise
    if here:
        return Finding("model", OK, f"{name}: nothing to download", facts={"downloaded": False})
    what = "" if weights else "; configuration and tokenizer only (--init random)"
    what += f"; the hub cannot be reached ({away}), all of it was here" if away else ""
    pinned = _pinned("--model-revision", task.described.commit or settings.model_revision)
    return _fetched("model", name, [hub.cache("model", name)], f"{what}; {pinned}")


def data(config: Config) -> Finding:
    """The rows, as the corpus reads them. Raises what the loading raises."""
    name = config.data.data
    if name == "sample" or Path(name).exists():
        return Finding("data", OK, f"{name}: nothing to download", facts={"downloaded": False})
    import datasets

    from lib.corpus import sources

    source = sources.load(config.data, recipes.load(config.recipe))
    rows = ", ".join(f"{split} {len(rows):,}" for split, rows in source.splits.items())
    identity, _ = hub.parts_of(name)
    # as downloaded, and as Arrow files, which are what is read
    folders = [
        hub.cache("dataset", identity),
        Path(datasets.config.HF_DATASETS_CACHE) / identity.replace("/", "___"),
    ]
    return _fetched("data", name, folders, f"; rows: {rows}; {_pinned('--revision', source.revision)}")


def index(config: Config) -> Finding:
    """The model that an index embeds questions with; it is small, and loaded to be compared with the one the
    index was built with."""
    from lib.corpus import contexts

    opened = contexts.check(config)
    assert opened is not None, "asked for where there is one"
    opened.embedder()
    return Finding("index", OK, f"{opened.path}: its model {opened.record['model']} is here")


def _why_away(name: str, revision: str) -> str:
    """Empty, or why the hub cannot be asked for a model: then what an earlier download left may do. Raises
    ValueError for what it refuses."""
    try:
        hub.commit_of("model", name, revision)
    except hub.UnreachableError as error:
        return str(error)
    return ""


def _pinned(flag: str, commit: str | None) -> str:
    """What a run without the hub reads, until somebody asks for another."""
    return f"{flag} {commit}"


def _fetched(kind: Kind, name: str, folders: list[Path], more: str) -> Finding:
    sizes = {str(folder): _size(folder) for folder in folders if folder.is_dir()}
    places = ", ".join(f"{size / GB:.2f} GB in {folder}" for folder, size in sizes.items())
    return Finding(kind, OK, f"{name}: {places}{more}", facts={"downloaded": True, "bytes": sizes})


def _size(folder: Path) -> int:
    """Of its files; a snapshot is links to them."""
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    return sizes


def _guarded(kind: Kind, name: str, get: Callable[[], Finding]) -> Finding:
    try:
        return get()
    except Exception as error:  # each library, and each version of it, has its own
        return refused(kind, name, error)


def refused(kind: Kind, name: str, error: Exception) -> Finding:
    """What stands in the way, and what to do."""
    identity, code, words = hub.parts_of(name)[0], _http_code(error), first_line(error)
    facts = {"http": code, "error": type(error).__name__}
    page = f"{PAGE.get(kind, PAGE['model'])}/{identity}"
    if code in NO_RIGHT:
        return Finding(kind, FAIL, *_no_right(name, page, error), facts)
    if code == 404:
        seen = f"{name}: there is none on the hub (HTTP 404), or not at this revision"
        return Finding(kind, FAIL, seen, f"see how it is spelled, and which branches it has: {page}", facts)
    if code is not None:
        seen = f"{name}: the hub answers with HTTP {code}"
        return Finding(kind, FAIL, seen, "try again later; https://status.huggingface.co says more", facts)
    if any(isinstance(one, hub.UnreachableError) for one in _chain(error)):
        away = next(one for one in _chain(error) if isinstance(one, hub.UnreachableError))
        seen = f"{name}: the hub cannot be reached ({first_line(away)})"
        advice = "see the network, HF_ENDPOINT, https_proxy and HF_HUB_OFFLINE" + _earlier(kind, identity)
        return Finding(kind, FAIL, seen, advice, facts)
    advice = "training would be refused too; a download that broke off goes on with the same command"
    return Finding(kind, FAIL, words, advice, facts)


def _earlier(kind: Kind, identity: str) -> str:
    """What to type for the commits that earlier downloads left."""
    rows = kind == "data"
    flag = "--revision" if rows else "--model-revision"
    snapshots = hub.cache("dataset" if rows else "model", identity) / "snapshots"
    commits = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
    return (
        f"; an earlier download left {' and '.join(f'{flag} {commit}' for commit in commits)}"
        if commits
        else ""
    )


def _no_right(name: str, page: str, error: Exception) -> tuple[str, str]:
    """401 and 403: a gated repository, a private one, or (the hub does not say) none at all."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError

    gated = any(isinstance(one, GatedRepoError) for one in _chain(error))
    who = "the token that is here has no right to it" if get_token() else "no token is here"
    what = "its licence must be accepted first" if gated else "it is private, or there is none of that name"
    seen = f"{name}: {what} (HTTP {_http_code(error)}); {who}"
    return seen, f"accept at {page}, then HF_TOKEN=... before this command, or hf auth login"


def _http_code(error: BaseException) -> int | None:
    """Of the hub's own refusal, wherever it stands behind what our code made of it."""
    from huggingface_hub.errors import HfHubHTTPError

    for one in _chain(error):
        if isinstance(one, HfHubHTTPError) and getattr(one, "response", None) is not None:
            return int(one.response.status_code)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It, and what it was made of."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
