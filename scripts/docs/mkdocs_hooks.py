"""Has mkdocs show the models' cards, which lie beside the models and not in docs/.

In the repository, pages link to the cards as ../models/candy.md and the cards to the pages as
../docs/...: both work on a code host. On the site the cards are in models/.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
TO_CARD = re.compile(r"\]\(((?:\.\./)+)models/")
TO_README = re.compile(r"\]\((?:\.\./)+README\.md(?:#\w+)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the cards."""
    for card in sorted((ROOT / "models").glob("*.md")):
        text = card.read_text(encoding="utf-8").replace("](../docs/", "](../")
        files.append(File.generated(config, f"models/{card.name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links to cards lead one folder less up; those to the README lead to the tutorial."""
    markdown = TO_CARD.sub(lambda match: f"]({match[1][3:]}models/", markdown)
    up = "../" * page.file.src_uri.count("/")
    return TO_README.sub(f"]({up}tutorial.md)", markdown)
