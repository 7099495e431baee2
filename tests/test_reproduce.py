import csv

import pytest

from advjax import cli

pytestmark = []


def test_unknown_targets_and_none_list_the_right_ones(capsys):
    assert cli.main(["reproduce", "fig9"]) == 2
    assert "target 'fig9' is not known" in capsys.readouterr().err
    assert cli.main(["reproduce"]) == 2
    assert "fig5: ratio against delta" in capsys.readouterr().err
    assert csv
    assert pytest
