"""A passage -> its sentences. By rule, the same everywhere: no model, no download."""

import re

MIN_WORDS = (
    4  # shorter pieces (headings, "See also.") say nothing by themselves and stay with their neighbour
)
# A stop, what may close after it, a blank, and something that can begin a sentence; or an end of line.
END = re.compile(r"""(?<=[.!?])["')\]]*\s+(?=["'(\[]?[A-Z0-9=*])|\s*\n\s*""")
# What ends in a stop inside a sentence: an initial, and the usual short forms.
SHORT_FORM = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|e\.g|i\.e|cf|vs|al|ca|approx|Dr|Mr|Mrs|Ms|Prof|St|Fig|Eq|No|Vol|pp?|ed|eds|etc|Jr|Sr)\.$"
)


def sentences(text: str) -> list[str]:
    """The sentences of a passage in their order; none is lost, blanks between them are."""
    pieces: list[str] = []
    begin = 0
    for match in END.finditer(text):
        if "\n" not in match.group() and SHORT_FORM.search(text[begin : match.start()]):
            continue
        pieces.append(text[begin : match.end()].strip())
        begin = match.end()
    pieces.append(text[begin:].strip())
    joined: list[str] = []
    for sentence in filter(None, pieces):
        if joined and (len(sentence.split()) < MIN_WORDS or len(joined[-1].split()) < MIN_WORDS):
            joined[-1] = f"{joined[-1]} {sentence}"
        else:
            joined.append(sentence)
    return joined
