import pytest

from fewbits.errors import SpecError
from fewbits.spec.soc import find_soc, socs
from fewbits.spec.target import target_names


def test_chips_are_found_by_name_and_number():
    assert find_soc("SM8650") == find_soc(57) == find_soc("57")
    assert find_soc("qcs6490").fp16 is False


def test_an_unknown_chip_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match=r"Unknown chip 'sm9': write one of .*sm8550 \(43\)"):
        find_soc("sm9")


def test_every_chip_follows_a_target_that_exists_and_has_a_number_of_its_own():
    assert {soc.target for soc in socs()} <= set(target_names())
    assert len({soc.id for soc in socs()}) == len({soc.name for soc in socs()}) == len(socs())
