#!/usr/bin/env python3
"""Checks that pages are written in short sentences.

    scripts/check_sentences.py [PAGE ...]       # default: README.md and docs/ but results

Code, tables, HTML, headings and links' targets are left out. It prints the median of each page and
every sentence that is too long, and exits with 1 where a page's median or a sentence is.
"""

import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEDIAN = 20  # words, of a page's sentences at most
LONGEST = 40  # words, of a sentence at most


def default_pages() -> list[Path]:
    """README.md and the pages of docs/, without the measured reports."""
    pages = [page for page in (ROOT / "docs").rglob("*.md") if "results" not in page.parts]
    return [ROOT / "README.md", *sorted(pages)]


def prose(markdown: str) -> list[str]:
    """The paragraphs and list items of a page, each on one line."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.S | re.M)
    text = re.sub(r"<!--.*?-->|<[^>\n]+>", "", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks, block = [], []
    for line in [*text.splitlines(), ""]:
        indented = line.startswith("    ")
        if not line.strip() or indented or line.lstrip().startswith(("#", "|")):
            blocks, block = [*blocks, block], []
        elif re.match(r"\s*([-*]|\d+\.) ", line):
            blocks, block = [*blocks, block], [re.sub(r"^\s*([-*]|\d+\.) ", "", line)]
        else:
            block.append(line.strip())
    return [" ".join(block) for block in blocks if block]


def sentences(markdown: str) -> list[str]:
    """The sentences of a page's prose. What is in `code` counts as one word."""
    found = []
    for block in prose(markdown):
        block = re.sub(r"`[^`]*`", "CODE", block)
        found += re.split(r"(?<=[.!?])\*{0,2}\s+(?=\S)", block)
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def words(sentence: str) -> int:
    """The number of words in a sentence."""
    return len(re.findall(r"\S*\w\S*", sentence))


def problems(page: Path) -> list[str]:
    """What is wrong with a page's sentences, as lines to print."""
    lengths = {sentence: words(sentence) for sentence in sentences(page.read_text("utf-8"))}
    if not lengths:
        return []
    median = statistics.median(lengths.values())
    found = [f"{page}: {n} words: {text}" for text, n in lengths.items() if n > LONGEST]
    if median > MEDIAN:
        found.append(f"{page}: the median sentence has {median} words; expected {MEDIAN} at most")
    return found


def main() -> int:
    """Prints what is wrong; returns 1 if something is."""
    pages = [Path(page) for page in sys.argv[1:]] or default_pages()
    found = [problem for page in pages for problem in problems(page)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
