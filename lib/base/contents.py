"""What the JSON files of a run folder hold, for those who write them and those who read them."""

from typing import Any, NotRequired, TypedDict


class Status(TypedDict, total=False):
    """status.json, of a run or of a sweep."""

    phase: str
    step: int
    num_steps: int
    trial: int
    num_trials: int
    exit_code: int | None  # None while it runs
    pid: int
    time: str
    spent: float  # with a --price
    expected: float | None  # for the whole run; None before an evaluation was measured
    at_least: float | None  # the same without evaluations; None before a step was


class Sitting(TypedDict):
    """One process's time on a run, in seconds since 1970."""

    began: float
    ended: float | None  # None while it runs, and when it was killed
    price: float | None  # of an hour


class Record(TypedDict, total=False):
    """run.json, which grows while a run goes on; one that never began lacks most of it."""

    rows: dict[str, int]  # by split
    counts: dict[str, int]  # empty responses, contexts cut ...
    num_rejected: int
    revision: str | None  # the commit of a hub data set
    files: dict[str, str]  # name -> sha256
    lists: list[str]  # columns of texts that were read as JSON lists of turns
    licence: str
    fingerprints: dict[str, str]  # data, split, tokenizer, model, code, perhaps index
    environment: dict[str, Any]  # versions, hardware, precision, ranks, threads
    command: str
    model_commit: str | None
    experiment: dict[str, Any]  # the configuration's parts that decide numbers
    weights: str  # fingerprint, at the start
    base: str | None  # of those that no checkpoint keeps
    base_precision: str  # what those are kept in, where they are float numbers
    parameters: dict[str, int]  # trainable, total, bytes
    token_budget: int  # after a rank ran out of memory and could not save: half of what it was
    peaks: dict[str, Any]  # hardware and precision -> flops_per_s of all ranks, and where it is known from
    training_seconds: float
    sittings: list[Sitting]
    spent: float  # by all of them, with a --price
    expected: float | None
    measured: dict[str, dict[str, Any]]  # hardware -> kind of work -> how long it took
    peak_gib: float | None


class Value(TypedDict):
    """A score and its 95 % interval."""

    value: float
    low: float | None  # None: one group of rows says nothing of others
    high: float | None


class Retrieval(TypedDict):
    """What the retriever found for the rows of a split that name their passage."""

    num_rows: int
    num_passages: int  # searched for each row
    scores: dict[str, Value]  # hit@k
    errors: dict[str, int]  # "found, right" -> rows


class Details(TypedDict, total=False):
    """What stands beside a split's scores; a kind of answer may add more."""

    labels: list[str]  # what an answer may be, where it is one of a list: other runs' must be the same
    num_false: int  # where an answer is right or wrong


class Summary(Details):
    """One split in scores.json."""

    num_rows: int
    num_groups: int  # of rows that are right and wrong together
    warnings: list[str]
    scores: dict[str, Value]
    baselines: dict[str, dict[str, Value]]
    # baseline -> score -> 1: the model is surely better, -1: worse, 0: cannot tell; not in runs of before
    gains: NotRequired[dict[str, dict[str, int]]]
    retrieval: NotRequired[Retrieval]


class RunScores(TypedDict):
    """scores.json, of a run or of an evaluation."""

    checkpoint: str
    precision: str
    token_budget: int
    splits: dict[str, Summary]
    data: NotRequired[str | None]  # of an evaluation: where other rows came from
    num_rejected: NotRequired[int]  # of an evaluation: malformed rows, which have no score


class Spread(TypedDict):
    """One score of one split in seeds.json."""

    seeds: dict[int, float]  # the value of each
    mean: float
    spread: float  # standard deviation of a sample


class Lengths(TypedDict):
    """Tokens of the sequences of a split."""

    median: int
    p95: int
    longest: int
    histogram: list[list[int]]  # (up to so many tokens, sequences)


class SplitLint(TypedDict):
    rows: int
    lengths: Lengths
    rows_cut: int
    targets: NotRequired[int]  # that carry loss; not in runs of before
    labels: dict[str, int]  # label -> rows; empty where targets are not counted


class NearDuplicates(TypedDict):
    """Rows of one split that say nearly the same as a row of another."""

    rows: int
    shown: list[tuple[str, str]]  # ids


class Lint(TypedDict):
    """lint.json"""

    splits: dict[str, SplitLint]
    near_duplicates: dict[str, NearDuplicates]  # "test and train" -> ...
    read_as: list[str]  # the first training row, as the model reads it
    target: str  # of that row
