"""The page is one file: whole, loading nothing, and it works in a browser."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from html import unescape
from html.parser import HTMLParser

import pytest
import websocket

from reports import claims, figures, findings, page, records, tables
from reports.analysis import analyse

VOID = {"meta", "link", "input", "img", "br", "hr", "wbr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-quic",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
]  # fmt: skip


class Outline(HTMLParser):
    """Collects the elements of a page, the text of each table cell, and what is not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.elements = [], [], []
        self.tables, self.table = {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(dict(attributes).get("id") or "", [])
        if tag == "tr":
            self.table.append([])
        if tag in ("td", "th"):
            self.table[-1].append("")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if {"td", "th"} & {*self.open} and "p" not in self.open:  # what is folded is no cell's
            self.table[-1][-1] += data.replace("\xa0", " ")


@pytest.fixture(scope="module")
def study_folder(make_study, tmp_path_factory):
    """The grid with two seeds, eight epochs and two evaluation sets."""
    return make_study(tmp_path_factory.mktemp("study"), seeds=range(2), eval_sets=2)


@pytest.fixture(scope="module")
def built(study_folder, tmp_path_factory):
    """The report of a study, which is built without torch and without a warning."""
    out = tmp_path_factory.mktemp("report")
    code = "import sys; from reports.__main__ import main; assert main() == 0; "
    code += "assert 'torch' not in sys.modules"
    words = ["--from", study_folder, "--to", out]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(out / "index.html") in done.stdout
    return out


@pytest.fixture(scope="module")
def html(built):
    return (built / "index.html").read_text()


def rendered(study):
    """The page without figures and downloads."""
    verdicts = claims.judge(study)
    shown = tables.report(study, verdicts)
    return page.render(study, verdicts, findings.findings(study), shown, {}, {})[0]


def film_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="film">(.*?)</script>', html)[1]
    )


def cells_of(film):
    """Every cell of the film's factors, by the name that its arm has."""
    cells = itertools.product(*([(k, v) for v in vs] for k, vs in film["factors"].items()))
    return {",".join(map("=".join, cell)) for cell in cells}


def test_the_readme_has_the_findings_figures_and_tables(built, study_folder):
    text = (built / "README.md").read_text()
    study = analyse(records.load(study_folder))
    verdicts = claims.judge(study)
    parts = [*findings.findings(study).all, *(x.claim.claim for x in verdicts)]
    parts += [tables.to_markdown(table) for table in tables.report(study, verdicts)]
    assert [x for x in parts if x not in text and tables.escape_markdown(x) not in text] == []
    images = re.findall(r"^!\[.*\]\((.*)\)$", text, re.MULTILINE)
    drawn = [f"figures/{path.name}" for path in (built / "figures").iterdir()]
    assert sorted(images) == sorted(drawn) != []
    assert text.count("<details>") == text.count("\n\n</details>\n") > 0
    assert "\n\n\n" not in text


def test_html_is_balanced_and_its_ids_are_unique(html):
    outline = Outline(html)
    assert (outline.wrong, outline.open) == ([], [])
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert sorted(set(ids)) == sorted(ids)
    targets = {a[k] for _, a in outline.elements for k in ("href", "xlink:href") if k in a}
    anchors = {target[1:] for target in targets if target and target.startswith("#")}
    assert anchors <= set(ids)


def test_page_loads_nothing(html):
    for tag, attributes in Outline(html).elements:
        for key in ("src", "srcset", "href", "xlink:href", "poster", "action", "data"):
            value = attributes.get(key) or "#"
            citation = tag == "a" and value.startswith("https://")
            assert citation or value.startswith(("#", "data:")), (tag, key, value[:80])
    assert all(url.startswith(("#", "data:")) for url in re.findall(r"url\([\"']?([^)]*)", html))
    assert "@import" not in html


def test_numbers_are_those_of_the_tables(html, built, study_folder):
    study = analyse(records.load(study_folder))
    shown = Outline(html).tables
    for table in tables.report(study, claims.judge(study)):
        cells = [[x.strip() for x in row] for row in shown[f"table-{table.name}"]]
        assert cells == [table.headings, *table.rows, *table.below]

    # Every sentence and every figure stands on the page.
    said = " ".join(unescape(html).split())
    for sentence in findings.findings(study).all:
        assert sentence in said
    drawn = [*re.findall(r'<figure id="figure-(\w+)"', html)]
    assert sorted(drawn) == sorted({path.stem for path in (built / "figures").iterdir()})
    assert re.findall(r"<b>Figure (\d+)\.", html) == [str(i + 1) for i in range(len(drawn))]

    # The filmstrip rounds the same numbers.
    film = film_of(html)
    for row in study.frame[study.frame["seed"] == 0].to_dict("records"):
        scores = film["arms"][row["run"].rpartition("/")[0]]["scores"][str(row["epoch"])]
        for name, column in (("fd_cifar", "fd_cifar"), ("D loss", "d_loss"), ("G loss", "g_loss")):
            unit = 10.0 ** -len(scores[name].partition(".")[2])
            assert abs(float(scores[name]) - row[column]) <= 0.5001 * unit
        assert "FID" not in scores


def test_filmstrip_has_every_arm_and_epoch(html, study_folder):
    study, film = analyse(records.load(study_folder)), film_of(html)
    arms = {run.partition("/")[0] for run in study.plan["run"]}
    assert set(film["arms"]) == arms == cells_of(film)
    epochs = [str(epoch) for epoch in range(1, film["last"] + 1)]
    for arm, rows in film["arms"].items():
        assert list(rows["frames"]) == list(rows["scores"]) == list(rows["points"]) == epochs
        assert all(uri.startswith("data:image/webp;base64,") for uri in rows["frames"].values())
        numbers = study.frame[study.frame["run"] == f"{arm}/seed=0"].set_index("epoch")["fd_cifar"]
        assert (rows["best"], rows["worst"]) == (numbers.idxmin(), numbers.idxmax())

    # Without a script the last epoch of one arm is there.
    first = film["arms"][film["arm"]]
    assert f'src="{first["frames"][str(first["last"])]}"' in html


def test_a_long_run_keeps_the_epochs_that_matter():
    epochs = list(range(1, 81))
    chosen = page.chosen_epochs(epochs, {37, 2}, 5)
    assert {1, 2, 37, 80} <= set(chosen) <= set(epochs)
    assert chosen == sorted(chosen)
    assert len(chosen) <= 5
    assert page.chosen_epochs(epochs[:5], {1, 2}, 5) == epochs[:5]


def test_a_film_of_few_pictures_says_which(study_folder, tmp_path):
    folder = shutil.copytree(study_folder, tmp_path / "study")
    for epoch in set(range(1, 9)) - {1, 5, 8}:
        for path in folder.glob(f"*/*/epochs/{epoch:04d}/samples.png"):
            path.unlink()
    study = analyse(records.load(folder))
    film = page.filmstrip(study)
    assert (film["pictured"], film["shown"]) == ("1, 5, 8", True)
    assert {tuple(arm["frames"]) for arm in film["arms"].values()} == {(1, 5, 8)}
    assert "of the 8 these have: 1, 5, 8." in rendered(study)


def test_what_is_committed_once_the_records_were_read_is_not_shown(study_folder, tmp_path):
    folder = shutil.copytree(study_folder, tmp_path / "study")
    bare = folder / "norm=none,head=conv,batch=512" / "seed=0"
    (bare / "run.json").unlink()  # it counts as not begun
    shutil.rmtree(bare / "banks")
    study = analyse(records.load(folder))
    epochs = folder / "norm=none,head=conv,batch=128" / "seed=0" / "epochs"
    late = max(study.frame["epoch"]) + 1
    shutil.copytree(epochs / f"{late - 1:04}", epochs / f"{late:04}")
    assert "seed 0, 1" in figures.draw(study)["samples"][1]
    for arm in page.filmstrip(study)["arms"].values():
        assert arm["frames"].keys() <= arm["scores"].keys()


def test_the_film_of_a_study_of_numbers_of_images(make_study, tmp_path):
    factors = {"images": [600, 1200], "act_d": ["relu", "leaky"]}
    made = make_study(tmp_path, epochs=1, factors=factors, resolution=16, points=2)
    film = page.filmstrip(analyse(records.load(made)))
    assert film["factors"] == {"training_images": ["600", "1200"], "act_d": ["relu", "leaky"]}
    assert film["chosen"].keys() == film["factors"].keys()
    assert set(film["arms"]) == cells_of(film)


def test_made_up_images_are_called_so(html, make_study, tmp_path):
    real = rendered(analyse(records.load(make_study(tmp_path, epochs=2, data="cifar10"))))
    notice = "They are\n  not CIFAR-10"
    assert (notice in html, notice in real) == (True, False)
    assert "Scale small: each D sees 80,000 images. A demonstration" in html
    assert ("DATA=shapes" in html, "DATA=cifar10" in real) == (True, True)


def test_what_is_missing_is_listed(make_study, tmp_path):
    absent, broken = (f"norm=batch,head=conv,batch={batch}" for batch in (64, 512))
    factors = {"norm": ["batch"], "head": ["conv"], "batch": [64, 512]}
    lost = {"committed": {f"{absent}/seed=0": 0}, "diverged": {f"{broken}/seed=0": 1}}
    study = analyse(records.load(make_study(tmp_path, epochs=3, factors=factors, **lost)))
    text = rendered(study)
    assert all(line in text for line in tables.missing_lines(study))
    film = film_of(text)
    assert absent not in film["arms"]
    assert "No epoch with a finite fd_cifar has been committed yet." in text
    diverged = film["arms"][broken]
    assert (diverged["best"], diverged["points"]) == (None, {})
    assert diverged["scores"]["3"]["fd_cifar"] == "diverged"
    assert "strip" not in figures.draw(study)
    assert Outline(text).wrong == []


def test_downloads_hold_the_files(html, built):
    links = {a["download"]: a["href"] for _, a in Outline(html).elements if "download" in a}
    assert {"records.csv", "tables.tex", "last.csv", "study.bib"} <= set(links)
    for name in links.keys() - {"study.bib"}:
        (path,) = built.rglob(name)
        with urllib.request.urlopen(links[name]) as answer:
            assert answer.read() == path.read_bytes()


@pytest.fixture
def browser(tmp_path):
    """A page of a headless Chromium, spoken to through the DevTools protocol."""
    if not CHROMIUM:
        pytest.skip("there is no chromium here: the page was not opened in a browser")
    words = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "about:blank"]
    said, deadline = tmp_path / "profile" / "DevToolsActivePort", time.monotonic() + 60
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            while not (said.exists() and "\n" in said.read_text()):
                assert process.poll() is None, "Chromium did not start"
                assert time.monotonic() < deadline, "Chromium did not open its port"
                time.sleep(0.1)
            port = said.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=60)
            yield socket
            socket.close()
        finally:
            process.terminate()


def test_page_in_a_browser(built, browser):
    events, numbers = [], itertools.count(1)

    def call(method, **parameters):
        number = next(numbers)
        browser.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(browser.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            events.append(message)

    def ask(expression):
        result = call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]
        return result.get("value")

    def seen():
        return ask(
            "[document.getElementById('picture').src, document.getElementById('epoch').textContent,"
            " document.querySelector('[data-score=fd_cifar]').textContent]"
        )

    def at(arm, epoch):
        key, last = str(epoch), film["last"]
        return [arm["frames"][key], f"{epoch} of {last}", arm["scores"][key]["fd_cifar"]]

    def load(state):
        call("Page.navigate", url=(built / "index.html").as_uri())
        while ask("document.readyState + document.documentElement.className") != state:
            time.sleep(0.1)
        assert ask("document.documentElement.scrollWidth") <= width

    film = film_of((built / "index.html").read_text())
    arm = film["arms"][film["arm"]]
    for domain in ("Page", "Runtime", "Log", "Network"):
        call(f"{domain}.enable")
    for width, height in ((1280, 900), (390, 844)):
        size = {"width": width, "height": height, "mobile": width < 500}
        call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, **size)
        load("completelive")

        # What was found, how sure, on what and how to do it again: all on the first screen.
        assert ask("[...document.querySelectorAll('.answers dt')].map(x => x.textContent)") == [
            "Found", "How sure", "Data", "Reproduce",
        ]  # fmt: skip
        assert ask("document.querySelector('header').getBoundingClientRect().bottom") <= height

        # The slider, the marks and the choice of an arm change picture and score.
        assert seen() == at(arm, 8)
        ask("slider.value = 3; slider.dispatchEvent(new Event('input'))")
        assert seen() == at(arm, 3)
        ask("document.getElementById('to-worst').click()")
        assert seen() == at(arm, arm["worst"])
        ask("document.querySelector('[name=norm][value=batch]').click()")
        other = film["arm"].replace("norm=none", "norm=batch")
        assert seen() == at(film["arms"][other], arm["worst"])
        ask("play(); clearInterval(timer)")
        assert ask("document.getElementById('play').textContent") == "pause"

        # Every section open, no table is wider than the window or scrolls.
        ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert ask("document.documentElement.scrollWidth") <= width
        wide = "[...document.querySelectorAll('table')].filter(x => x.scrollWidth > x.clientWidth)"
        assert ask(f"{wide}.length") == 0

        # Without scripts: the last epoch, and no control that does nothing.
        call("Emulation.setScriptExecutionDisabled", value=True)
        load("complete")
        assert seen() == at(arm, 8)
        assert ask("document.querySelector('.picker').offsetHeight + slider.offsetHeight") == 0
        call("Emulation.setScriptExecutionDisabled", value=False)

    # Nothing was asked of the network, and nothing went wrong.
    asked = [x["params"] for x in events if x["method"] == "Network.requestWillBeSent"]
    assert {x["request"]["url"].partition(":")[0] for x in asked} == {"file", "data"}
    kinds = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
    assert [event for event in events if event["method"] in kinds] == []
