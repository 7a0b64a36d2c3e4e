"""What our pages share: templates that escape everything, one style, plots as SVG in the page's own colours.

A page needs nothing beside it: no script, no request, no font of its own.
"""

import re
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.base.files import write_text

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins in the plot -> the page's own colours, so that one plot serves the light and the dark page.
TEXT, LINE, FAINT, ACCENT, ALARM = "#010101", "#020202", "#030303", "#040404", "#050505"
IN_THE_PAGE = ("currentColor", "var(--line)", "var(--faint)", "var(--accent)", "var(--alarm)")
WIDTHS = {"wide": 7.6, "narrow": 4.0}  # inches: shrinking one plot to a phone would make its words too small


def render(template: Path, *others: Path, **values: Any) -> str:
    """The text of a page; templates may include `others` by their names, and what lies beside this file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent for path in (template, *others, Path(__file__))]),
        autoescape=True,  # not chosen by the file's suffix: .jinja would mean off
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(values)


def write_page(path: Path, page: str) -> Path:
    write_text(path, page)
    return path


def dress(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=TEXT)
    axes.tick_params(labelsize=9, labelcolor=TEXT, color=LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)


def inline_svg(figure: "Figure", label: str, salt: str) -> Any:
    """A figure -> an element of the page: its colours, its font, no other site's name. `salt` keeps the names
    inside apart from those of the page's other plots, and the same from call to call."""
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    drawn = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(drawn)
    svg = drawn.getvalue()
    box, body = re.findall(r'viewBox="[^"]*"', svg)[0], svg[svg.index("<defs>") :]
    body = re.sub(r' font-family: [^;"]*;| id="[\w.]+_\d+"(?=>)', "", body)
    for stand_in, colour in zip((TEXT, LINE, FAINT, ACCENT, ALARM), IN_THE_PAGE, strict=True):
        body = body.replace(stand_in, colour)
    return Markup(f'<svg {box} role="img" aria-label="{escape(label)}">{body}')
