"""The page: one HTML file without a request, in light and dark, for eyes and screen readers."""

from __future__ import annotations

from typing import Any

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
:root { --paper: #fff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --mark: #0b5cad;
  --good: #116329; --bad: #a40e26; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --mark: #6cb6ff;
    --good: #56d364; --bad: #ff8a80; } }
body { background: var(--paper); color: var(--ink); max-width: 66rem; margin: 0 auto;
  padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--mark); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--mark);
  outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding: .3rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .55rem; text-align: left; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.verdict { font-size: 1.3rem; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
svg { max-width: 100%; height: auto; color: var(--ink); }
nav ul { columns: 2; }
@media print { nav, .skip { display: none; } }
</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{{ title }}</h1>
<p class="verdict {{ 'good' if ok else 'bad' }}">{{ verdict }}</p>
</header>
<nav aria-label="Sections"><ul>
{% for section in sections %}<li><a href="#s{{ loop.index }}">{{ section.title }}</a></li>
{% endfor %}</ul></nav>
<main id="main">
{% for section in sections %}
<section id="s{{ loop.index }}" aria-labelledby="h{{ loop.index }}">
<h2 id="h{{ loop.index }}">{{ section.title }}</h2>
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% for figure in section.figures %}
<figure>{{ figure.svg | safe }}<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% for table in section.tables %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ table.caption }}">
<table><caption>{{ table.caption }}</caption>
<thead><tr>
{% for column in table.columns %}<th scope="col">{{ column }}</th>{% endfor %}
</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row %}
{% if loop.first %}<th scope="row">{{ cell | shown }}</th>
{% else %}<td{% if cell is number %} class="number"{% endif %}>{{ cell | shown }}</td>
{% endif %}{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endfor %}
</section>
{% endfor %}
</main>
<footer><p>Written by qat_round {{ version }}.</p></footer>
</body>
</html>
"""


def section(title: str, text: str = "", figures: Any = (), tables: Any = ()) -> dict[str, Any]:
    """A section of the page.

    Args:
        title: its heading.
        text: what to know to read it.
        figures: (svg, caption) of each.
        tables: (caption, columns, rows) of each.
    """
    return {
        "title": title,
        "text": text,
        "figures": [{"svg": svg, "caption": caption} for svg, caption in figures],
        "tables": [
            {"caption": caption, "columns": columns, "rows": rows}
            for caption, columns, rows in tables
        ],
    }


def render(title: str, ok: bool, verdict: str, sections: list[dict[str, Any]], version: str) -> str:
    """The page as text; everything in it is escaped but the plots."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["shown"] = _shown
    page = environment.from_string(PAGE)
    return page.render(title=title, ok=ok, verdict=verdict, sections=sections, version=version)


def _shown(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
