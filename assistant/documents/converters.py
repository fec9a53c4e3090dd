"""Office files, web pages and tables to Markdown; each by the library that reads its format.

mammoth and markdownify are what markitdown uses for DOCX and HTML; markitdown itself takes 2 s and 160 MB to import, and
keeps neither slides nor sheets apart.
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.documents.archive import check_office
from assistant.documents.text import Refused, decode, table

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

MAX_COLUMNS = 500
"""Columns of a table that are read: a sheet may be formatted out to its 16,384th."""
_BOILERPLATE = ("script", "style", "noscript", "template", "nav", "footer", "svg", "iframe", "button", "select", "head")
_DOCX_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
_PERCENT = re.compile(r"^0(\.0+)?%$")


def html_pages(file: Path) -> tuple[list[str], str]:
    """Return a web page as Markdown: its main part, without navigation, under its title; and a doubt about its encoding."""
    from bs4.dammit import EncodingDetector

    data = file.read_bytes()
    source, doubt = decode(data, EncodingDetector.find_declared_encoding(data, is_html=True))
    return [html_to_markdown(source)], doubt


def html_to_markdown(source: str) -> str:
    """Turn HTML into Markdown; relative links become their text, pictures their description."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(source, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for element in soup(_BOILERPLATE):
        element.decompose()
    body = _main_part(soup)
    try:
        text = _markdown_of(body)
    except RecursionError:  # nested deeper than any person nests: its words without its structure
        text = body.get_text("\n", strip=True)
    if title and text.strip() and not re.search(r"^# ", text, re.MULTILINE):
        text = f"# {title}\n\n{text}"
    return text


def _main_part(soup: BeautifulSoup) -> Tag:
    for name in ("main", "article"):
        found = soup.find_all(name)
        if len(found) == 1 and found[0].get_text(strip=True):
            return found[0]
    return soup.body or soup


def _markdown_of(body: Tag) -> str:
    from bs4.element import NavigableString
    from markdownify import ATX, markdownify

    for link in body("a"):
        target = str(link.get("href") or "")
        if target.startswith("#") and link.get_text(strip=True) in {"#", "\u00b6", "\u00a7"}:
            link.decompose()
        elif not target.startswith(("http://", "https://", "mailto:")):
            link.unwrap()
    for picture in body("img"):
        picture.replace_with(NavigableString(str(picture.get("alt") or "")))
    for cell in body(("td", "th")):
        for text in cell.find_all(string=re.compile(r"\|"), recursive=True):
            if text.find_parent(("td", "th")) is cell:
                text.replace_with(NavigableString(text.replace("|", "\\|")))
    markdown = markdownify(
        str(body),
        heading_style=ATX,
        bullets="-",
        table_infer_header=True,
        escape_asterisks=False,
        escape_underscores=False,
        autolinks=False,
    )
    return str(markdown)


def docx_pages(file: Path) -> list[str]:
    """Return a DOCX file as Markdown; it knows no pages."""
    import mammoth

    check_office(file, ".docx")
    with file.open("rb") as handle:
        html = mammoth.convert_to_html(handle, style_map=_DOCX_STYLES, convert_image=_described).value
    return [html_to_markdown(html)]


def _described(image: Any) -> list[Any]:
    from mammoth import html

    return [html.text(image.alt_text)] if image.alt_text else []


def pptx_pages(file: Path, *, max_pages: int) -> list[str]:
    """Return the slides of a PPTX file as Markdown, each under its title, with its notes."""
    from pptx import Presentation

    check_office(file, ".pptx")
    slides = Presentation(str(file)).slides
    if len(slides) > max_pages:
        raise Refused(f"has {len(slides):,} slides, more than the {max_pages:,} that are read: split it")
    return [_slide(slide, number) for number, slide in enumerate(slides, 1)]


def _slide(slide: Any, number: int) -> str:
    title = slide.shapes.title
    name = " ".join(title.text_frame.text.split()) if title is not None else ""
    parts = [part for shape in _placed(slide.shapes) if shape != title for part in _shape(shape)]
    notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    if notes is not None and notes.text.strip():
        parts.append(f"Notes: {notes.text.strip()}")
    if not name and not any(part.strip() for part in parts):
        return ""
    return "\n\n".join([f"## {name or f'Slide {number}'}", *(part for part in parts if part.strip())])


def _placed(shapes: Iterable[Any]) -> list[Any]:
    """Return shapes from the top to the bottom and from the left to the right, as one reads a slide."""
    return sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0))


def _shape(shape: Any) -> Iterator[str]:
    from pptx.enum.shapes import MSO_SHAPE_TYPE

    if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
        for inner in _placed(shape.shapes):
            yield from _shape(inner)
    elif getattr(shape, "has_table", False):
        yield table([[cell.text for cell in row.cells] for row in shape.table.rows])
    elif getattr(shape, "has_chart", False):
        yield _chart(shape.chart)
    elif shape.has_text_frame:
        paragraphs = [paragraph for paragraph in shape.text_frame.paragraphs if paragraph.text.strip()]
        listed = shape.is_placeholder and len(paragraphs) > 1
        lines = [f"{'  ' * item.level}- {item.text.strip()}" if listed else item.text.strip() for item in paragraphs]
        yield "\n".join(lines)


def _chart(chart: Any) -> str:
    """Return the numbers behind a chart as a table; a chart without categories (a scatter plot) is left out."""
    title = chart.chart_title.text_frame.text if chart.has_title and chart.chart_title.has_text_frame else ""
    plot = next(iter(chart.plots), None)
    if plot is None or not len(plot.categories):
        return title
    categories = [str(category) for category in plot.categories]
    series = [(str(one.name), [_value(value) for value in one.values]) for one in plot.series]
    rows = [["", *(name for name, _ in series)]]
    rows += [
        [category, *(values[at] if at < len(values) else "" for _, values in series)] for at, category in enumerate(categories)
    ]
    return "\n\n".join(part for part in (title, table(rows)) if part)


def xlsx_pages(file: Path, *, max_pages: int, max_chars: int) -> list[str]:
    """Return the sheets of an XLSX file as Markdown tables, each under its name; formulas as the values last computed."""
    from openpyxl import load_workbook

    check_office(file, ".xlsx")
    book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
    try:
        if len(book.worksheets) > max_pages:
            raise Refused(f"has {len(book.worksheets):,} sheets, more than the {max_pages:,} that are read: split it")
        pages = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # the size that a sheet declares may be wrong
            rows = _within(max_chars, ([_sheet_cell(cell) for cell in row[:MAX_COLUMNS]] for row in sheet.iter_rows()))
            blocks = [_block(block) for block in _blocks(rows)]
            pages.append("\n\n".join([f"## {sheet.title}", *blocks]) if blocks else "")
        return pages
    finally:
        book.close()


def _sheet_cell(cell: Any) -> str:
    if isinstance(cell.value, float | int) and not isinstance(cell.value, bool):
        percent = _PERCENT.match(cell.number_format or "")
        if percent:
            return f"{cell.value:.{max(len(percent[1] or '') - 1, 0)}%}"
    return _value(cell.value)


def _value(value: object) -> str:
    """Return a value as a person would write it: whole numbers without a point, dates without midnight."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.12g}" if abs(value) < 1e12 else f"{value:.0f}"
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)


def csv_pages(file: Path, *, max_chars: int, tabs: bool) -> tuple[list[str], str]:
    """Return a CSV or TSV file as a Markdown table, whose separator is what its first lines use most, and a doubt about it."""
    text, doubt = decode(file.read_bytes())
    first = text[:4096]
    separator = "\t" if tabs else max(",;\t|", key=first.count)
    csv.field_size_limit(max_chars)
    try:
        rows = [row for row in _within(max_chars, csv.reader(io.StringIO(text, newline=""), delimiter=separator)) if any(row)]
    except csv.Error as error:
        raise Refused(f"is not a table that can be read ({error}): save it as CSV once more") from error
    return ["\n\n".join(_block(block) for block in _blocks(rows))], doubt  # one block: no row is empty


def _within(max_chars: int, rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Pass rows on until they hold more characters than are read of a file."""
    held = 0
    for row in rows:
        held += sum(len(cell) + 3 for cell in row if cell)
        if held > max_chars:
            raise Refused(f"holds more than the {max_chars:,} characters that are read: split it")
        yield row[:MAX_COLUMNS]


def _blocks(rows: Iterable[Sequence[str]]) -> Iterator[list[list[str]]]:
    """Yield the tables of a sheet, which empty rows keep apart, without the empty columns around and within them."""
    block: list[list[str]] = []
    for row in itertools.chain(rows, [[]]):
        if any(cell.strip() for cell in row):
            block.append([cell.strip() for cell in row])
        elif block:
            width = max(len(row) for row in block)
            used = [at for at in range(width) if any(at < len(row) and row[at] for row in block)]
            yield [[row[at] if at < len(row) else "" for at in used] for row in block]
            block = []


def _block(rows: Sequence[Sequence[str]]) -> str:
    """Return a block of a sheet as Markdown: lines of a single cell above a table are its caption, not its header."""
    start = 0
    if len(rows[0]) > 1:
        while start < len(rows) - 1 and sum(bool(cell) for cell in rows[start]) == 1:
            start += 1
    captions = [" ".join(cell for cell in row if cell) for row in rows[:start]]
    body = rows[start:]
    if len(body[0]) == 1:  # a column of text
        return "\n".join([*captions, *(row[0] for row in body)])
    return "\n\n".join([*captions, table(body)])
