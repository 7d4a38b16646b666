"""The report of a compile: what it keeps, and what it prints."""

import warnings

import pytest

import j2o
from j2o.report import Report


def test_a_warning_is_kept_and_points_at_the_callers_line():
    report = Report()
    with pytest.warns(j2o.J2OWarning, match="perhaps not meant") as caught:
        report.warn("perhaps not meant")
    assert caught[0].filename == __file__
    assert report.warnings == ["perhaps not meant"]
    assert "warning: perhaps not meant" in str(report)


def test_a_warning_can_be_made_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error", j2o.J2OWarning)
        with pytest.raises(j2o.J2OWarning):
            Report().warn("perhaps not meant")
