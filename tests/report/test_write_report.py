"""The report: one page without a request, right, escaped, and opened in a real browser."""

from __future__ import annotations

import html.parser
import json
import pathlib
import shutil
import subprocess
import urllib.parse

import pytest

import qat_round as qr

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

HISTORY = [
    {
        "epoch": 1,
        "loss": 0.5,
        "ranges": {"a/output": [0.0, 1.0]},
        "knobs": {"a/kernel": {"k": 2.0}},
    },
    {
        "epoch": 2,
        "loss": 0.25,
        "ranges": {"a/output": [0.0, 2.0]},
        "knobs": {"a/kernel": {"k": 4.0}},
    },
]


@pytest.fixture(scope="module")
def page(tuned, converted, pictures, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("report") / "net.html"
    facts = {
        "history": HISTORY,
        "figures": {"accuracy_float": 0.9, "accuracy_device": 0.89, "file_bytes": 6664},
        "layers": [
            {"name": "<b>&x", "layer": "Dense", "outcome": "integer", "macs": 7, "why": "'\""}
        ],
    }
    files = {"model": tuned("ste"), "tflite": converted("ste")}
    qr.write_report(path, **files, inputs=pictures[0][:64], facts=facts)
    return path


class Elements(html.parser.HTMLParser):
    """All tags with their attributes, and unclosed ones."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_nothing_is_fetched(page):
    fetching = ("src", "href", "xlink:href", "action", "data")
    links = [a[k] for _, a in Elements(page.read_text()).found for k in fetching if k in a]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "default-src 'none'" in page.read_text()


def test_it_tells_what_was_measured(page, converted):
    text = page.read_text()
    for word in ("Passed", "accuracy", "Ranges", "Weights and bits", "Training", "CONV_2D"):
        assert word in text
    assert f"{len(converted('ste')):,}" in text or "6,664" in text


def test_what_comes_from_a_model_is_escaped(page):
    assert "&lt;b&gt;&amp;x" in page.read_text()
    assert "<b>&x" not in page.read_text()


def test_screen_readers_get_names(page):
    found = Elements(page.read_text()).found
    pictures_ = [a for tag, a in found if tag == "svg"]
    assert len(pictures_) >= 5
    assert all(a.get("role") == "img" and a.get("aria-label") for a in pictures_)
    tags = [tag for tag, _ in found]
    assert tags.count("caption") == tags.count("table")
    assert all(a.get("scope") in ("row", "col") for tag, a in found if tag == "th")
    assert tags.count("h1") == 1
    assert dict(found)["html"]["lang"] == "en"


def test_runs_are_compared(tmp_path):
    for number, ok in ((1, True), (2, False)):
        manifest = {
            "ok": ok,
            "figures": {"accuracy_device": 0.9, "file_bytes": 1000 * number},
            "parity": {"max_steps": float(number)},
            "history": HISTORY,
        }
        (tmp_path / f"{number}.json").write_text(json.dumps(manifest))
    from qat_round.report.write_report import write_comparison

    text = write_comparison(tmp_path / "all.html", [tmp_path / "1.json", tmp_path / "2.json"])
    assert "1 of 2 passed" in text
    (tmp_path / "3.json").write_text("{}")
    with pytest.raises(ValueError, match=r"3\.json.* is no manifest"):
        write_comparison(tmp_path / "all.html", [tmp_path / "3.json"])
    with pytest.raises(FileNotFoundError, match=r"4\.json"):
        write_comparison(tmp_path / "all.html", [tmp_path / "4.json"])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_chromium_without_an_error_or_a_request(page, tmp_path, scheme):
    options = ["--window-size=1000,2400"]
    options += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] * (scheme == "dark")
    log, shot = tmp_path / "net.json", tmp_path / "shot.png"
    options += [f"--log-net-log={log}", f"--screenshot={shot}"]
    said = opened(page, tmp_path, *options)
    assert shot.stat().st_size > 20_000, said
    assert ":CONSOLE" not in said
    assert foreign(asked_for(log)) == []
    image = pytest.importorskip("PIL.Image").open(shot).convert("L")
    corner = image.getpixel((5, 5))
    assert corner < 60 if scheme == "dark" else corner > 200


CHROMIUMS_OWN = (  # what the browser itself asks for, whatever it shows
    "accounts.google.com",
    "android.clients.google.com",
    "clients2.google.com",
    "clientservices.googleapis.com",
    "content-autofill.googleapis.com",
    "optimizationguide-pa.googleapis.com",
    "redirector.gvt1.com",
    "safebrowsingohttpgateway.googleapis.com",
    "update.googleapis.com",
    "www.google.com",
)


def asked_for(log: pathlib.Path) -> set[str]:
    """All URLs in a net log."""
    events = json.loads(_closed(log.read_text()))["events"]
    return {e["params"]["url"] for e in events if "url" in e.get("params", {})}


def foreign(urls: set[str]) -> list[str]:
    """Those that go over the network, and not to the browser's own hosts."""
    over = [url for url in sorted(urls) if url.startswith(("http:", "https:", "ws:", "wss:"))]
    return [url for url in over if urllib.parse.urlsplit(url).hostname not in CHROMIUMS_OWN]


@pytest.mark.slow
def test_a_request_would_be_seen(tmp_path):
    log, given = tmp_path / "net.json", tmp_path / "page.html"
    link = "https://cdn.example.invalid/plot.js"
    given.write_text(f"<script src='{link}'></script>")
    opened(given, tmp_path, f"--log-net-log={log}", "--dump-dom")
    assert foreign(asked_for(log)) == [link]


def opened(page: pathlib.Path, folder: pathlib.Path, *options: str) -> str:
    """What Chromium says on standard error when it shows a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    base = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    base += [f"--user-data-dir={folder / 'profile'}"]
    command = [browser, *base, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300).stderr


def _closed(text: str) -> str:
    """A net log as JSON: Chromium may end before it closes the list."""
    text = text.rstrip().rstrip(",")
    return text if text.endswith(("]}", "]\n}")) else text + "]}"
