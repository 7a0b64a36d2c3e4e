"""The rows of a data set, still words: read, checked, split, and what is to be said of them. No run folder is
needed for any of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lib.config import DataConfig, TaskConfig
from lib.corpus import columns, sources, splits
from lib.corpus.readers import Rejected
from lib.corpus.sources import SPLITS, Source
from lib.data.rows import Rows, pack
from lib.recipe import Example, Recipe
from lib.task import Task

PROBES = "probes"  # the split name of a recipe's probes
OTHER = "data"  # the split name of rows that a finished run has never seen
CUTS = {  # what a task counted -> what people should know of it
    "questions cut": "rows are longer than the model can read: their questions were cut, too",
    "gold passages cut": "rows' passages with the answer were cut; raise --max-length or lower --chunks",
}


@dataclass(frozen=True)
class Corpus:
    """The usable rows of each split, and the others."""

    config: DataConfig
    recipe: Recipe
    splits: dict[str, list[Example]]
    rejected: list[Rejected]
    num_read: int
    """Rows that were read, usable or not."""
    revision: str | None = None
    """The resolved commit of a hub data set."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> sha256 of its bytes."""
    notes: list[str] = field(default_factory=list)
    """What people should know of the reading."""
    lists: list[str] = field(default_factory=list)
    """Columns of texts that are columns of JSON lists of turns."""
    counts: dict[str, int] = field(default_factory=dict)
    """Things that were used and counted: empty responses, exact doubles ..."""

    @staticmethod
    def read(
        config: DataConfig, recipe: Recipe, with_label: bool = True, lists: list[str] | None = None
    ) -> "Corpus":
        """Everything that can be used, by the splits that the source has. `lists`: which columns hold lists,
        where a run has settled it. Raises ValueError when the source cannot be read at all."""
        return Corpus.of(sources.load(config, recipe, with_label), config, recipe, with_label, lists)

    @staticmethod
    def of(
        source: Source,
        config: DataConfig,
        recipe: Recipe,
        with_label: bool = True,
        lists: list[str] | None = None,
    ) -> "Corpus":
        """What can be used of the rows that were read. Raises ValueError for a column of lists that are no
        JSON."""
        usable: dict[str, list[Example]] = {}
        rejected, notes = list(source.rejected), list(source.notes)
        own = columns.lists_in([row for rows in source.splits.values() for row in rows], recipe)
        lists = own if lists is None else lists
        for name in recipe.list_columns:
            if (name in own) != (name in lists):
                kinds = ("JSON lists of turns", "plain texts")[:: 1 if name in own else -1]
                notes.append(
                    f"WARNING: {name} looks like {kinds[0]}; it is read as {kinds[1]}, as in training"
                )
        for split, rows in source.splits.items():
            rows = columns.with_lists(rows, recipe, lists)
            named = split if len(source.splits) > 1 else "row"
            usable[split], broken = splits.to_examples(rows, recipe, with_label, named)
            rejected += broken
        num_read = sum(map(len, source.splits.values())) + len(source.rejected)
        read = {"revision": source.revision, "files": source.files, "notes": notes, "lists": lists}
        return Corpus(config, recipe, usable, rejected, num_read, **read)  # type: ignore[arg-type]

    def complete(self) -> "Corpus":
        """The same with the splits that are lacking, checked. Raises ValueError (too many malformed rows,
        doubled ids, an empty split) or CheckError (a group on two sides)."""
        self.refuse_rejected()
        splits.refuse_doubled_ids(self.splits)
        splits.refuse_leaks(self.splits)
        divided = splits.divide(self.splits, self.config.max_rows)
        return replace(self, splits=divided, counts=splits.count(divided))

    def whole(self) -> "Corpus":
        """All rows in the one split OTHER, checked: nobody trains on them. Raises ValueError."""
        self.refuse_rejected(listed=False)
        rows = {OTHER: [row for split in self.splits.values() for row in split]}
        splits.refuse_doubled_ids(rows)
        return replace(self, splits=rows)

    def without(self, reasons: Mapping[str, str]) -> "Corpus":
        """The same, with the rows of these ids among the rejected ones. They are not dropped without a word:
        they count against --max-rejected."""
        more = [Rejected.of(f"id {identity}", reason, "") for identity, reason in reasons.items()]
        rows = {
            split: [row for row in rows if row["id"] not in reasons] for split, rows in self.splits.items()
        }
        return replace(self, splits=rows, rejected=[*self.rejected, *more])

    def usable(self, unusable: Callable[[list[Example]], Mapping[str, str]], task: TaskConfig) -> "Corpus":
        """The same without the rows that `unusable` gives a reason for. It sees them as they will be
        finished, where a text has its citation."""
        rows = [row for split in self.finished(task).splits.values() for row in split]
        return self.without(unusable(rows))

    def finished(self, task: TaskConfig) -> "Corpus":
        """The same, with what the rows of one split take of each other."""
        finish = self.recipe.finish
        if finish is None:
            return self
        return replace(self, splits={split: finish(rows, task) for split, rows in self.splits.items()})

    def refuse_rejected(self, listed: bool = True) -> None:
        """Raises ValueError when too many rows are malformed."""
        counts = len(self.rejected), self.num_read
        splits.refuse_rejected(self.rejected, counts, self.config.max_rejected, listed)

    def with_splits(self, rows: dict[str, list[Example]]) -> "Corpus":
        """The same with other texts in its rows: contexts that were found, say."""
        return replace(self, splits=rows)

    def with_probes(self) -> dict[str, list[Example]]:
        """The splits, and the recipe's probes where it has some."""
        return self.splits | ({PROBES: splits.probes(self.recipe)} if self.recipe.probes else {})

    def fingerprints(self) -> dict[str, str]:
        """sha256 of what each split says and of which ids stand in it."""
        return {
            "data": splits.digest([self.splits[split] for split in SPLITS]),
            "split": splits.digest([[example["id"] for example in self.splits[split]] for split in SPLITS]),
        }

    def sizes(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self.splits.items()}

    def facts(self, encoded: dict[str, int]) -> list[str]:
        """What was read, for people; `encoded`: what a task cut and counted."""
        sizes = ", ".join(f"{split} {size}" for split, size in self.sizes().items())
        lines = [f"data {self.config.data}: {sizes} rows", *self.notes]
        if self.revision:
            lines.append(f"commit {self.revision}")
        if self.rejected:
            count = f"{len(self.rejected)} of {self.num_read} rows rejected"
            lines.append(f"{count}; the rejected.jsonl of a run lists them all:")
            lines += [f"  {row.where}: {row.reason}" for row in self.rejected[:3]]
        return lines + counted(self.counts | encoded)

    def encode(
        self, split: str, task: Task, between: Callable[[], None] = lambda: None, refuse: bool = True
    ) -> Rows:
        """Token ids of one split, in memory; for one process. `between` may raise to stop; `refuse`: as
        task.encode has it."""
        return pack(task.encode(self.splits[split], between, refuse))


def counted(counts: Mapping[str, int]) -> list[str]:
    """What was counted while rows were read and encoded, and what people should know of it."""
    lines = ["counted: " + ", ".join(f"{name} {count}" for name, count in counts.items())] if counts else []
    return lines + [f"WARNING: {counts[name]} {said}" for name, said in CUTS.items() if counts.get(name)]
