import base64
import collections
import csv
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import advjax
from advjax import cli
from advjax.display import number
from advjax.report import charts, write_report
from advjax.report.gallery import Pictures
from advjax.runs.driver import run
from advjax.runs.pair_list import make_pair_list
from advjax.runs.pipeline import Job

SIDE = 72


def means(images):
    """Four numbers of an image, and two classes."""
    found = images.reshape(-1, 2, SIDE // 2, 2, SIDE // 2, 3).mean((2, 4, 5)).reshape(-1, 4)
    return {"mean": found, "prob": found[:, :2]}


NET = advjax.Network(
    means,
    (SIDE, SIDE, 3),
    name="means",
    layer="mean",
    output="prob",
    classes=("left <i>", "right"),
    preprocessing=advjax.Preprocessing(crop=SIDE),
)


def make_run(folder, count, failures=0, deltas=(10.0,), **settings):
    """A run's directory; the guides of its first `failures` pairs are not there."""
    rng = np.random.default_rng(0)
    names = [f"<b>image & {i}.png" for i in range(8)]
    folder.mkdir(exist_ok=True)
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
        coarse.resize((SIDE, SIDE)).save(folder / name)
    lines = ["id,source,guide,delta"]
    for i in range(count):
        guide = f"{{{{title}}}} none-{i}.png" if i < failures else names[(i // 8 + i + 1) % 8]
        lines.append(f"pair {i},{names[i % 8]},{guide},{deltas[i % len(deltas)]}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    usual = {"solver": advjax.SignMomentum(max_evaluations=6), "batch_size": 16, "trace": True}
    job = Job(NET, **(usual | settings))
    run(job, make_pair_list(str(folder / "pairs.csv")), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """12 pairs, 2 of which failed, at two deltas."""
    return make_run(tmp_path_factory.mktemp("few"), 12, failures=2, deltas=(10.0, 20.0))


@pytest.fixture(scope="module")
def path(few, tmp_path_factory):
    """Its report."""
    return write_report(few, tmp_path_factory.mktemp("report") / "page.html")


@pytest.fixture(scope="module")
def page(path):
    return path.read_text()


class Reader(HTMLParser):
    """Sees that elements nest, and collects them with their attributes."""

    EMPTY = ("meta", "link", "img", "input", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("attack", "solver"),
    [
        ("feature-fgrad", "SignedStep, at most 2"),
        ("feature-linear", "ProjectedLBFGS, at most 500"),
        ("label-fgrad", "SignedStep, at most 2"),
    ],
)
def test_an_attack_without_a_given_solver_has_a_report(attack, solver, tmp_path):
    page = write_report(make_run(tmp_path, 2, attack=attack, solver=None)).read_text()
    assert f"of 255, {attack}, {solver} evaluations a pair</p>" in page


def elements(text, tag):
    return [attributes for name, attributes in Reader(text).found if name == tag]


def test_the_page_is_whole_and_wants_nothing_from_elsewhere(page):
    assert "{{" not in page.replace("{{title}} none", "")
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert not re.search(r"@import|url\(|https?://", page)
    found = [attributes for _, attributes in Reader(page).found]
    ids = [attributes["id"] for attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for a in found if "aria-labelledby" in a} <= set(ids)


def test_every_pair_that_was_attacked_is_a_card_smallest_ratio_first(page, few):
    table = advjax.open_run(few).table(["index", "ratio", "distance", "mean_change"])
    good = {row["index"]: row for row in table.to_pylist() if row["ratio"] is not None}
    cards = elements(page, "article")
    assert sorted(int(card["data-index"]) for card in cards) == sorted(good)
    for card in cards:
        row = good[int(card["data-index"])]
        assert float(card["data-ratio"]) == row["ratio"]
        assert float(card["data-distance"]) == row["distance"]
        assert float(card["data-change"]) == row["mean_change"]
    ratios = [float(card["data-ratio"]) for card in cards]
    assert ratios == sorted(ratios)


def test_names_are_text_whatever_is_in_them(page):
    assert "<b>image" not in page
    assert html.escape("<b>image & 0.png") in page
    assert "left &lt;i&gt;" in page
    assert "{{title}} none-0.png" in page


HOSTILE = [
    "<script>alert(1)</script>",
    "</script></style></title><b>",
    "\"' onerror=alert(1) x='\"",
    "a & b &amp; {{ title }} {% raw %}",
    "two\nlines",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe\N{RIGHT-TO-LEFT MARK}",
]


class Texts(HTMLParser):
    """Collects the tags, the text and the attributes' values of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.values, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.values += [value for _, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def hostile_report(folder, names):
    """The files, and the page, of a run with these names in its ids, files, classes and errors."""
    folder.mkdir()
    files = [f"{i}{name.replace('/', '')}.png" for i, name in enumerate(names)]
    for i, file in enumerate(files):
        Image.new("RGB", (SIDE, SIDE), (40 * i, 60, 90)).save(folder / file)
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "source", "guide"])
        for i, name in enumerate(names):
            table.writerow([f"{name} {i}", files[i], files[i - 1]])
            table.writerow([f"{name} {i} failed", files[i], f"none {name}"])
    net = dataclasses.replace(NET, name=names[0], classes=(names[1], names[2]))
    job = Job(net, solver=advjax.SignMomentum(max_evaluations=3), batch_size=16)
    run(job, make_pair_list(str(folder / "pairs.csv")), folder / "run", progress=False)
    return files, write_report(folder / "run")


def test_hostile_names_are_text_in_elements_attributes_and_data(tmp_path):
    def report(*arguments):
        files, path = hostile_report(*arguments)
        return files, path.read_text(encoding="utf-8")

    files, page = report(tmp_path / "hostile", HOSTILE)
    _, plain = report(tmp_path / "plain", [f"name {i}" for i in range(len(HOSTILE))])
    found, harmless = Texts(page), Texts(plain)
    count = collections.Counter(tag for tag in found.tags if tag != ("wbr",))
    assert count == collections.Counter(tag for tag in harmless.tags if tag != ("wbr",))
    text = "".join(found.texts)
    for i, name in enumerate(HOSTILE):
        assert f"{name} {i}" in text  # of a card
        assert f"{name} {i} failed" in text
        assert f"none {name}" in text
        assert files[i] in text
    assert HOSTILE[0] in "".join(found.texts)
    shown = [name for name in HOSTILE[1:3] if f"Source: {name}" in found.values]
    assert shown, "a class is in an attribute"
    images = [data for data in found.texts if re.fullmatch("[A-Za-z0-9+/=]{200,}", data)]
    assert len(images) == page.count('<script type="text/plain"')


def test_failures_are_listed_with_what_is_wrong(page):
    section = page[page.index('id="failures"') : page.index('id="gallery"')]
    assert "2 pairs could not be read" in section
    assert section.count("<tr>") == 3
    assert "none-1.png" in section


def test_pairs_of_one_layer_and_delta_have_figures_of_their_own(page, few):
    rows = advjax.open_run(few).table(["delta", "ratio"]).to_pylist()
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    for delta in (10, 20):
        ratios = [r["ratio"] for r in rows if r["delta"] == delta and r["ratio"] is not None]
        count, mean, median = re.search(rf"mean, δ {delta} (\d+) ([\d.]+) ([\d.]+)", text).groups()
        assert int(count) == len(ratios)
        assert float(mean) == pytest.approx(np.mean(ratios), rel=5e-3)
        assert float(median) == pytest.approx(np.median(ratios), rel=5e-3)
    assert page.count("Histogram of ratio") == 2
    assert page.count("distance / initial distance against evaluations") == 2


def test_without_traces_there_is_no_descent_and_one_group_needs_no_heading(tmp_path):
    page = write_report(make_run(tmp_path, 3, trace=False)).read_text()
    assert "against evaluations" not in page
    assert "<h3>mean" not in page
    assert "All pairs" not in page


@pytest.mark.parametrize(
    ("attack", "axis"),
    [
        ("feature-linear", "distance by linear map / initial distance against evaluations"),
        ("label-fgrad", "objective against evaluations"),
        ("label-opt", None),  # has an objective for each c
    ],
)
def test_the_descent_is_of_what_falls(attack, axis, tmp_path):
    solver = None if attack.endswith("fgrad") else advjax.SignMomentum(max_evaluations=3)
    page = write_report(make_run(tmp_path, 2, attack=attack, solver=solver)).read_text()
    assert re.findall(r'aria-label="(\w[\w /]+ against evaluations)', page) == [axis] * bool(axis)


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(float)


def test_pictures_are_the_runs_own(page, few):
    kept = dict(re.findall(r'<script type="text/plain" id="(i\d+)">([^<]*)</script>', page))
    cards = re.findall(r"<article.*?</article>", page, re.S)
    # Sources and guides once, however many pairs share them; adversarial and difference of each.
    used = set(re.findall(r'data-image="(i\d+)"', "".join(cards)))
    assert used == set(kept)
    assert len(kept) <= 2 * len(cards) + 8
    data = advjax.open_run(few)
    for card in cards:
        ids = re.findall(r'data-image="(i\d+)"', card)
        source, _, adversarial, difference = (decoded(kept[i]) for i in ids)
        index = int(re.search(r'data-index="(\d+)"', card)[1])
        exact = data.image(index).astype(float)
        assert abs(adversarial - exact).mean() < 4  # of JPEG
        factor = 127.5 // (10.0, 20.0)[index % 2]
        assert abs(difference - (127.5 + factor * (exact - source))).mean() < 40


def test_small_pictures_are_exact():
    store = Pictures(144)
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    assert store.media_type(store.add(image)) == "image/png"
    (text,) = store.encoded()
    np.testing.assert_array_equal(decoded(text), image[..., 0])


def test_images_that_have_been_moved(tmp_path):
    make_run(tmp_path / "old", 4)
    (tmp_path / "old").rename(tmp_path / "new")
    page = write_report(tmp_path / "new" / "run").read_text()
    assert page.count("not found</span>") == 4 * 3
    assert "--root" in page
    page = write_report(tmp_path / "new" / "run", root=tmp_path / "new").read_text()
    assert "not found</span>" not in page
    assert "--root" not in page


def test_a_gallery_of_some_takes_them_evenly_over_the_ratios(few, tmp_path):
    page = write_report(few, tmp_path / "some.html", gallery=3).read_text()
    found = advjax.open_run(few).table(["ratio"])["ratio"].drop_null().to_pylist()
    ratios = [float(card["data-ratio"]) for card in elements(page, "article")]
    assert len(ratios) == 3
    assert (ratios[0], ratios[-1]) == (min(found), max(found))
    assert "3 of 10 pairs are shown" in page
    page = write_report(few, tmp_path / "none.html", gallery=0).read_text()
    assert elements(page, "article") == []


def test_a_run_that_is_not_finished_says_so(tmp_path):
    directory = make_run(tmp_path, 6, shard_size=2)
    next((directory / "shards").glob("part-00001-*")).unlink()
    page = write_report(directory).read_text()
    assert "not finished: 4 of 6 pairs" in page
    assert len(elements(page, "article")) == 4


def test_a_run_whose_every_pair_failed(tmp_path):
    page = write_report(make_run(tmp_path, 2, failures=2)).read_text()
    assert elements(page, "article") == []
    assert "No pair was attacked" in page
    assert "2 pairs could not be read" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "holds no run"),
        (["RUN", "--gallery", "-1"], "gallery is -1"),
        (["RUN", "--out", "RUN/manifest.json/x.html"], "choose another place"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, says, few, capsys):
    assert cli.main(["report", *(word.replace("RUN", str(few)) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("advjax: ")
    assert says in err
    assert len(err.splitlines()) == 1


def test_the_command_says_what_it_wrote(few, capsys):
    assert cli.main(["report", str(few)]) == 0
    assert re.fullmatch(
        rf"written: {few}/report.html \(0\.\d MB\)", capsys.readouterr().out.strip()
    )
    assert elements((few / "report.html").read_text(), "article")


# Charts.


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.031, 0.94), (-3, 4000), (5, 5), (0, 0), (1e-7, 4e-6), (99.2, 99.3)]
)
def test_ticks_are_round_and_cover(low, high):
    at = charts.ticks(low, high)
    step = at[1] - at[0]
    assert 2 <= len(at) <= 7
    assert at[0] <= low
    assert at[-1] >= high
    np.testing.assert_allclose(np.diff(at), step, rtol=1e-6)
    assert f"{step:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


@pytest.mark.parametrize("count", [1, 7, 40, 500])
def test_a_histogram_counts_every_value(count):
    values = np.random.default_rng(0).gamma(2, 0.1, count)
    drawn = charts.histogram(np.append(values, [np.nan, np.inf]), "ratio")
    assert sum(int(n) for n in re.findall(r": (\d+) pairs?</title>", drawn)) == count
    assert f"median {number(float(np.median(values)))}" in drawn


def test_a_histogram_of_nothing_and_of_one_value():
    assert "no figures" in charts.histogram(np.array([np.nan]), "ratio")
    assert ": 3 pairs" in charts.histogram(np.full(3, 0.25), "ratio")


@pytest.mark.parametrize(
    "curves", [np.geomspace(1, 0.01, 500)[None], np.ones((3, 1)), np.zeros((2, 4))]
)
def test_a_descent_stays_within_its_chart(curves):
    drawn = charts.descent(curves, "distance")
    points = " ".join(re.findall(r'points="([^"]+)"', drawn)).split()
    assert len(points) >= 3 * min(curves.shape[1], 100)
    for x, y in (map(float, point.split(",")) for point in points):
        assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM


# In a browser.

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
QUIET += ["--enable-logging=stderr", "--virtual-time-budget=5000"]
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


def browse(address, *options):
    """What Chromium prints, and what the page's scripts said on its console."""
    found = subprocess.run(
        [CHROMIUM, *QUIET, *options, address],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return found.stdout, [line for line in found.stderr.splitlines() if "CONSOLE" in line]


def index_of(card):
    return int(re.search(r'data-index="(\d+)"', card)[1])


@in_a_browser
@pytest.mark.slow
def test_of_2000_pairs_only_those_near_are_loaded(tmp_path):
    path = write_report(make_run(tmp_path, 2000))
    page, console = browse(path.as_uri(), "--dump-dom", "--window-size=1200,900")
    assert console == []
    assert "2,000 of 2,000 shown" in page
    waiting, loaded = page.count("data-image="), page.count('src="data:image')
    assert waiting + loaded == 8000
    assert 0 <= loaded < 400
    shot = tmp_path / "shot.png"
    # Tall enough for the first cards: a headless browser's shot of a place far down can be blank.
    browse(path.as_uri(), f"--screenshot={shot}", "--window-size=1200,3000")
    image = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    colourful = (np.ptp(image, axis=-1) > 60).mean()  # only pictures have so much colour
    assert colourful > 0.05


@in_a_browser
@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ("sort=-ratio", lambda row: True),
        ("sort=index&find=PAIR+9", lambda row: row["index"] == 9),
        ("show=guide", lambda row: row["adversarial_uint8_label"] == row["guide_label"]),
        ("show=other", lambda row: row["adversarial_uint8_label"] != row["guide_label"]),
    ],
)
def test_cards_are_sorted_chosen_and_found(choice, shown, path, few):
    page, console = browse(f"{path.as_uri()}#{choice}", "--dump-dom", "--window-size=1200,4000")
    assert console == []
    columns = ["index", "ratio", "guide_label", "adversarial_uint8_label"]
    rows = [r for r in advjax.open_run(few).table(columns).to_pylist() if r["ratio"] is not None]
    cards = re.findall(r"<article([^>]*)>", page)
    by_index = choice.startswith("sort=index")
    rows.sort(key=lambda r: r["index"] if by_index else r["ratio"], reverse=choice == "sort=-ratio")
    assert [index_of(card) for card in cards] == [row["index"] for row in rows]
    wanted = [row["index"] for row in rows if shown(row)]
    assert [index_of(card) for card in cards if "hidden" not in card] == wanted
    assert f"{len(wanted)} of 10 shown" in page


@pytest.fixture(scope="module")
def both(few, tmp_path_factory):
    """The report of `few` beside a run of 20 of the same pairs by another solver."""
    other = make_run(tmp_path_factory.mktemp("other"), 20, solver=advjax.ProjectedLBFGS(6))
    return other, write_report(few, tmp_path_factory.mktemp("both") / "page.html", beside=other)


def test_two_runs_have_the_pairs_that_both_attacked(few, both):
    other, path = both
    page = path.read_text()
    runs = [
        advjax.open_run(each).table(["source", "guide", "ratio"]).to_pylist()
        for each in (few, other)
    ]
    ratios = [
        {(r["source"], r["guide"]): r["ratio"] for r in rows if r["ratio"] is not None}
        for rows in runs
    ]
    common = ratios[0].keys() & ratios[1].keys()
    cards = elements(page, "article")
    assert len(cards) == len(common) == 10
    assert "The 10 pairs that both runs have attacked" in page
    found = {(float(card["data-ratio"]), float(card["data-other"])) for card in cards}
    assert found == {(ratios[0][key], ratios[1][key]) for key in common}
    assert "SignMomentum, at most 6" in page
    assert "ProjectedLBFGS, at most 6" in page
    assert page.count("<b>Adversarial A</b>") == page.count("<b>Adversarial B</b>") == 10


def test_runs_of_one_name_are_told_apart(few, tmp_path):
    """As the runs of two reproductions are: by the nearest folders that differ."""
    for name in ("lbfgs", "default"):
        shutil.copytree(few, tmp_path / name / "runs" / "fc7")
    first, second = (tmp_path / name / "runs" / "fc7" for name in ("lbfgs", "default"))
    path = write_report(first, beside=second)
    assert path == first / "report-default.html"
    assert "<title>lbfgs beside default" in path.read_text()
    assert "fc7 beside" not in path.read_text()


def test_two_runs_without_a_common_pair_say_so(few, tmp_path, capsys):
    other = make_run(tmp_path, 1, failures=1)
    assert cli.main(["report", str(few), str(other), "-o", str(tmp_path / "both.html")]) == 0
    assert "no pair of source and guide in common" in (tmp_path / "both.html").read_text()
    assert cli.main(["report", str(few), str(other), str(few)]) == 2
    assert "3 runs are given" in capsys.readouterr().err


# What a person does: enlarges the first pair, flips it, goes on, filters. Then axe-core looks.
VISIT = """<script>addEventListener("load", () => setTimeout(async () => {
  const seen = {}, large = document.getElementById("large");
  const press = (key) => large.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const note = (name) => { seen[name] = large.alt.split(":")[0]; };
  document.querySelector("button.frame").click(); note("clicked");
  press("f"); note("flipped");
  document.getElementById("flip").click(); note("flipped back");
  press("2"); note("second");
  const before = document.getElementById("what").textContent;
  press("ArrowRight"); seen.moved = before !== document.getElementById("what").textContent;
  seen.open = (await axe.run()).violations.map((v) => v.id);
  document.getElementById("close").click();
  seen.closed = (await axe.run()).violations.map((v) => v.id);
  const delta = document.getElementById("delta");
  delta.value = "20.0"; delta.dispatchEvent(new Event("input", { bubbles: true }));
  seen.filtered = document.getElementById("count").textContent;
  let text = "";
  URL.createObjectURL = (blob) => { text = blob.text(); return "#"; };
  document.getElementById("save").click();
  seen.csv = await text;
  const said = document.createElement("p");
  said.id = "seen"; said.textContent = JSON.stringify(seen);
  document.body.append(said);
}, 100));</script></body>"""


@in_a_browser
@pytest.mark.parametrize("runs", [1, 2])
def test_a_visitor_enlarges_flips_filters_and_saves_and_axe_finds_nothing(
    runs, few, path, both, tmp_path
):
    axe = pytest.importorskip("axe_core_python")
    source = (Path(axe.__path__[0]) / "axe.min.js").read_text(encoding="utf-8")
    page = (path, both[1])[runs - 1].read_text()
    visited = tmp_path / "visited.html"
    visited.write_text(page.replace("</body>", f"<script>{source}</script>{VISIT}"))
    shown, console = browse(visited.as_uri(), "--dump-dom", "--window-size=1200,2000")
    assert console == []
    seen = json.loads(html.unescape(re.search('<p id="seen">(.*?)</p>', shown, re.S)[1]))
    adversarial = "Adversarial" if runs == 1 else "Adversarial A"
    steps = ("clicked", "flipped", "flipped back", "second")
    assert [seen[step] for step in steps] == ["Source", adversarial, "Source", "Guide"]
    assert seen["moved"]
    assert seen["open"] == seen["closed"] == []
    rows = list(csv.DictReader(io.StringIO(seen["csv"])))
    ids = [
        r["id"]
        for r in advjax.open_run(few).table(["id", "delta", "ratio"]).to_pylist()
        if r["delta"] == 20 and r["ratio"] is not None
    ]
    assert seen["filtered"] == f"{len(ids)} of 10 shown"
    end = "" if runs == 1 else "_A"
    assert sorted(row[f"id{end}"] for row in rows) == sorted(ids)
    assert all(float(row[f"delta{end}"]) == 20 for row in rows)


@in_a_browser
def test_hostile_names_are_text_in_a_browser(tmp_path):
    """No script of theirs runs, every card is there, and what they say is on the page."""
    _, path = hostile_report(tmp_path / "hostile", HOSTILE)
    page, console = browse(path.as_uri(), "--dump-dom", "--window-size=1200,4000")
    assert console == []
    found = Texts(page)
    text = "".join(found.texts)
    assert f"{len(HOSTILE)} of {len(HOSTILE)} shown" in text
    assert text.count("alert(1)") > len(HOSTILE)  # as text
    assert not [tag for tag in found.tags if "onerror" in tag]
    assert len([tag for tag in found.tags if tag[0] == "article"]) == len(HOSTILE)
    _, plain = hostile_report(tmp_path / "plain", [f"name {i}" for i in range(len(HOSTILE))])
    harmless = Texts(browse(plain.as_uri(), "--dump-dom", "--window-size=1200,4000")[0])
    for tag in ("script", "b", "img", "style"):
        count = [len([t for t in each.tags if t[0] == tag]) for each in (found, harmless)]
        assert count[0] == count[1], tag
