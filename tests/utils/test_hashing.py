import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from mose.utils.hashing import digest

parts = st.lists(st.one_of(st.text(), st.integers()), max_size=4)


@given(parts)
def test_a_digest_has_64_bits_and_depends_on_the_strings_alone(values):
    assert 0 <= digest(*values) < 2**64
    assert digest(*values) == digest(*map(str, values))


@given(
    st.lists(st.text(alphabet="ab", max_size=2), max_size=3),
    st.lists(st.text(alphabet="ab", max_size=2), max_size=3),
)
def test_other_parts_have_another_digest(first, second):
    assert (digest(*first) == digest(*second)) == (first == second)


def test_every_process_has_the_same_digest():
    code = "from mose.utils.hashing import digest; print(digest('a', 1, '\\udc80'))"
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == digest("a", 1, "\udc80")
