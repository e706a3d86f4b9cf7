"""The filter of the home screen: what it keeps, and what it says of terms that make no sense."""

import time

import pytest

from edc_tui.filtering import parse_filter
from edc_tui.overview import entries
from edc_tui.watch import Lister
from engine.errors import UserError


@pytest.fixture
def kept(projects, make_run):
    """Give the projects of the runs that a filter keeps, of four different runs."""
    make_run("alpha", top1=61.5, method="edc", dataset="cifar10", ipc=10)
    make_run("beta", top1=40.0, method="rded", dataset="cifar10", ipc=50)
    make_run("gamma", status="failed", method="edc", dataset="digits", ipc=1, seed=3)
    make_run("delta", status="stopped", method="sre2l", dataset="imagenet-1k", ipc=10)
    listings = Lister(projects).runs()
    return lambda text: sorted(listing.run.project for listing in listings if parse_filter(text).keeps(listing))


@pytest.mark.parametrize(
    ("text", "projects_kept"),
    [
        ("", "alpha beta delta gamma"),
        ("alpha", "alpha"),
        ("cifar10", "alpha beta"),
        ("cifar10 rded", "beta"),
        ("acc>60", "alpha"),
        ("acc<=61.5", "alpha beta"),
        ("top1>=40%", "alpha beta"),
        ("method=edc", "alpha gamma"),
        ("method=edc,rded", "alpha beta gamma"),
        ("method!=edc", "beta delta"),
        ("ipc=10", "alpha delta"),
        ("ipc=10 acc>1", "alpha"),
        ("status=done", "alpha beta"),
        ("-status=done", "delta gamma"),
        ("status:failed", "gamma"),
        ("seed=3", "gamma"),
        ("-cifar10", "delta gamma"),
        ("age<1h", "alpha beta delta gamma"),
        ("age>2d", ""),
        ("dataset=imagenet", "delta"),
        ("ALPHA", "alpha"),
        ("[alpha]", ""),
    ],
)
def test_keeps(kept, text, projects_kept):
    assert kept(text) == projects_kept.split()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acc>high", "acc is a number: 'high' is none"),
        ("ipc=", "ipc is a number"),
        ("method>edc", "method is a text: use method=edc"),
        ("method=", "method= needs a value"),
        ("colour=red", "colour: not known; there are acc, ipc"),
        ("age<soon", "age is a time such as 30min, 6h or 2d"),
        ("age<1.2.3h", "age is a time"),
    ],
)
def test_says_what_makes_no_sense(text, said):
    with pytest.raises(UserError) as error:
        parse_filter(text)
    assert said in str(error.value) and "\n" not in str(error.value)


class TestTheOrderOfTheList:
    def lines(self, projects, **options):
        lister = Lister(projects)
        lines = entries(lister.runs(), lister.files(), **options)
        return [entry.project if entry.listing is None else entry.listing.run.id for entry in lines]

    def test_projects_come_by_their_newest_run_with_the_newest_run_first(self, projects, make_run):
        old = make_run("b")
        newer = make_run("a")
        newest = make_run("b")
        assert self.lines(projects) == ["b", newest.id, old.id, "a", newer.id]

    def test_by_accuracy_the_best_comes_first_and_runs_without_one_last(self, projects, make_run):
        low, none, high = make_run("a", top1=10.0), make_run("a"), make_run("a", top1=90.0)
        assert self.lines(projects, order="accuracy", grouped=False) == [high.id, low.id, none.id]

    def test_by_status_what_is_at_work_comes_first_and_what_is_done_last(self, projects, make_run, live_run):
        done, failed = make_run("a"), make_run("b", status="failed")
        live, _ = live_run("c")
        assert self.lines(projects, order="status", grouped=False) == [live.id, failed.id, done.id]

    def test_a_folded_project_shows_itself_alone(self, projects, make_run):
        make_run("a")
        run = make_run("b")
        assert self.lines(projects, folded={"a"}) == ["b", run.id, "a"]

    def test_a_project_without_runs_is_kept_by_words_and_dropped_by_terms(self, projects):
        (projects / "idle.toml").write_text("schema = 1\n")
        assert self.lines(projects, chosen=parse_filter("idle")) == ["idle"]
        assert self.lines(projects, chosen=parse_filter("acc>1")) == []

    def test_ten_thousand_runs_are_put_in_order_in_a_second(self, projects, make_run):
        make_run("a", top1=10.0)
        listings = Lister(projects).runs() * 10_000
        began = time.monotonic()
        assert len(entries(listings, [], order="accuracy")) == 10_001
        assert time.monotonic() - began < 2
