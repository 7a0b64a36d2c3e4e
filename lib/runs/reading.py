"""The rows of an experiment as a run reads them, run or no run: words, contexts, token ids, and what they
look like before any weight loads."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lib.base.contents import Lint
from lib.base.files import read_json, write_json, write_lines
from lib.config import Config
from lib.corpus import contexts, lint
from lib.corpus import encoded as store
from lib.corpus.corpus import Corpus
from lib.corpus.encoded import Encoded
from lib.recipe import Example, Recipe
from lib.retrieval.folder import Index
from lib.runs import folder as folders
from lib.runs import record, resume
from lib.runs.folder import RunFolder
from lib.task import Task
from lib.tasks import make as make_task


@dataclass(frozen=True)
class Read:
    """The rows and what is to be said of them."""

    corpus: Corpus
    encoded: Encoded
    lint: Lint
    fingerprints: dict[str, str]
    facts: list[str]


@dataclass(frozen=True)
class Reader:
    """How an experiment reads its rows."""

    config: Config
    task: Task
    index: Index | None
    between: Callable[[], None]
    """Runs now and then, and may raise to stop."""

    @staticmethod
    def of(config: Config, recipe: Recipe, between: Callable[[], None]) -> "Reader":
        """Raises ValueError when the configuration cannot work with its model, or has no such index."""
        task = make_task(recipe, config)
        task.check()
        return Reader(config, task, contexts.check(config), between)

    @property
    def runs(self) -> Path:
        return folders.parent(self.config)

    def look_through(self, recipe: Recipe) -> Read:
        """Without a run: for --lint-only. Raises ValueError, or CheckError when something is beyond its
        threshold."""
        corpus = self._usable(Corpus.read(self.config.data, recipe)).complete().finished(self.config.task)
        corpus, facts = self._retrieved(corpus)
        read = self._encoded(corpus, self._fingerprints(corpus))
        lint.refuse(read.lint, self.config.data, read.encoded.lint)
        return replace(read, facts=[*facts, *read.facts, *lint.lines(read.lint)])

    def for_run(self, recipe: Recipe, folder: RunFolder, before: dict[str, str] | None) -> Read:
        """For a run that begins, or that began with the fingerprints `before`. Raises ValueError, or
        CheckError when the rows are not what they were, or are beyond a threshold."""
        corpus = self._usable(Corpus.read(self.config.data, recipe))
        if corpus.rejected and before is None:
            write_lines(folder.rejected, map(asdict, corpus.rejected))
        corpus, facts = self._kept(corpus.complete().finished(self.config.task), folder)
        fingerprints = self._fingerprints(corpus)
        if before is not None:
            resume.check_fingerprints(before, fingerprints)
        read = self._encoded(corpus, fingerprints)
        facts += read.facts
        if not folder.lint.exists():  # a resumed run has seen it
            write_json(folder.lint, read.lint)
            facts += lint.lines(read.lint)
            lint.refuse(read.lint, self.config.data, folder.lint)
        return replace(read, facts=facts)

    def _usable(self, corpus: Corpus) -> Corpus:
        return corpus.usable(lambda rows: self.task.unusable(rows, self.between), self.config.task)

    def _kept(self, corpus: Corpus, folder: RunFolder) -> tuple[Corpus, list[str]]:
        """With the contexts that were found when the run began, or that are found now and kept."""
        file = folder.path / contexts.FILE
        if self.index is not None and file.is_file():
            rows = contexts.kept(corpus.splits, self.config, file)
            return corpus.with_splits(rows), [f"contexts as they were found when the run began: {file}"]
        return self._retrieved(corpus, file)

    def _retrieved(self, corpus: Corpus, file: Path | None = None) -> tuple[Corpus, list[str]]:
        """With contexts for the rows that want one; what was found is kept in `file`."""
        if self.index is None:
            return corpus, []
        for rows in corpus.splits.values():  # what is too long without a context is refused before the search
            self.task.encode([Example(**{**row, "context": []}) for row in rows], self.between)
        retrieved = contexts.retrieve(corpus.splits, self.config, self.index, self.runs, self.between)
        facts = retrieved.facts
        if file is not None and retrieved.lines:
            retrieved.write(file)
            facts = [*facts, f"what was found is kept in {file}"]
        return corpus.with_splits(retrieved.splits), facts

    def _fingerprints(self, corpus: Corpus) -> dict[str, str]:
        fingerprints = corpus.fingerprints() | self.task.fingerprints()
        fingerprints |= {"code": record.code_fingerprint(self.config.recipe)}
        return fingerprints | ({"index": self.index.fingerprint} if self.index is not None else {})

    def _encoded(self, corpus: Corpus, fingerprints: dict[str, str]) -> Read:
        key = store.key_of(fingerprints, self.config)
        encoded = store.encode(corpus, self.task, self.runs, key, self.between)
        if not encoded.lint.exists():
            write_json(encoded.lint, lint.inspect(corpus, encoded, self.task, self.between))
        facts = corpus.facts(encoded.counts())
        return Read(corpus, encoded, read_json(encoded.lint), fingerprints, facts)
