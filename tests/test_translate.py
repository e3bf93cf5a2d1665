"""Templates: what they give, and what they are kept from."""

import time

import pytest
from hypothesis import given, strategies as st

from poller.translate import TemplateFault, compile_template

BIG = "y" * 900_000
VALUES = {
    "a": "x{{7*7}}",
    "none": None,
    "yes": True,
    "many": [1, {"k": "é"}],
    "five": 5,
    "nul": "A\x00B",
    "big": BIG,
    "n": 1,
}
#: Lists within lists, ten by ten: eight lines that would be a gigabyte of text.
BOMB = (
    "{% set a=['x'*99]*10 %}"
    + "".join(f"{{% set {b}=[{a}]*10 %}}" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "{{ i }}"
)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("const\n", "const\n"),
        ("a { b } %", "a { b } %"),
        ("{{ a }}", "x{{7*7}}"),
        ("{{a}}|{{none}}|{{yes}}|{{many}}|{{five}}|{{nul}}\n", 'x{{7*7}}||true|[1,{"k":"é"}]|5|A\ufffdB\n'),
        ("{# nothing #}{{ a }}", "x{{7*7}}"),
        ("{{ none ~ a ~ yes }}", "x{{7*7}}true"),
        ("{{ none|upper }}{{ a|upper }}", "X{{7*7}}"),
        ("{{ five + 1 }}", "6"),
        ("{{ '7'|int + 1 }}", "8"),
        ("{{ a.replace('x', 'zz') }}{{ a|replace('7', '8') }}", "zz{{7*7}}x{{8*8}}"),
        ("{{ many|join('-') }}", '1-{"k":"é"}'),
        ("{{ a|tojson }}{{ many|tojson }}", '"x{{7*7}}"[1,{"k":"é"}]'),
        ("{{ a|truncate(5, true, '…', 0) }}", "x{{7…"),
        ("{% for one in many %}{{ one }};{% endfor %}", '1;{"k":"é"};'),
        ("{% if five > 3 %}high{% else %}low{% endif %}", "high"),
        ("{% set b %}{{ a }}!{% endset %}{{ b }}", "x{{7*7}}!"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(none) }}", "<>"),
        ("{{ missing|default('here') }}", "here"),
        ("{{ '%05d'|format(five) }} {{ 1.55|round(1) }} {{ [1, 2]|sum }}", "00005 1.6 3"),
        ("{{ a[0] }}{{ a.split('{')[0] }}", "xx"),
    ],
)
def test_what_a_template_gives(text: str, rendered: str) -> None:
    assert compile_template(text).render(VALUES) == rendered


def test_the_names_that_it_needs() -> None:
    assert compile_template("{{ a }} {% for b in c %}{{ b ~ d }}{% endfor %}{% set e = 1 %}{{ e }}").names == {
        "a",
        "c",
        "d",
    }
    assert compile_template("no {names} here").names == frozenset()
    assert compile_template("{{ a }}").text == "{{ a }}"


def test_a_field_may_have_the_name_of_something_in_jinja() -> None:
    assert compile_template("{{ range }}{{ dict }}").render({"range": "north", "dict": "d"}) == "northd"


@pytest.mark.parametrize(
    "text",
    [
        "{{ a",
        "{{ a|nofilter }}",
        "{% if false %}{{ a|nofilter }}{% endif %}",
        "{{ many|map('nofilter')|list }}",
        "{{ a is notest }}",
        "{{ many|select('notest')|list }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% for %}",
        "{{ not }}",
        "{{ a b }}",
        "{% endif %}",
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{% if a %}" * 500 + "{% endif %}" * 500,
        "x" * 100_001,
    ],
)
def test_a_bad_template_is_one_line_at_load(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  its text is looked at
        compile_template(text)

    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["{{ missing }}", "x {{ missing }}", "{{ missing ~ 'x' }}", "{{ missing|upper }}"])
def test_an_undefined_name_is_a_fault(text: str) -> None:
    with pytest.raises(TemplateFault, match="'missing' is undefined"):
        compile_template(text).render(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "{{ a.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ a['__class__'] }}",
        "{{ many|map(attribute='__class__')|list }}",
        "{{ '{0.__class__}'.format(a) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ many.append(1) }}",
        "{{ range }}",
        "{{ many|map('string') }}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ ['a'] * 10**9 }}",
        "{{ 10**(10**9) }}",
        "{{ 2**9999 * 2**9999 }}",
        "{{ 1.5|round(10**7, 'ceil') }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '%*d'|format(999999999, 1) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ (1).to_bytes(10**9, 'big') }}",
        "{{ a|indent(10**9) }}",
        "{{ big|replace('', big) }}",
        "{{ big.replace('', big) }}",
        "{{ big.replace('y', big) }}",
        "{{ [big, big]|join }}",
        "{{ range(99999)|join(big) }}",
        "{{ [[1], [2]]|sum(start=[]) }}",
        "{{ range(10**9)|list }}",
        "{{ big ~ big }}",
        "{{ big }}{{ big }}",
        "{{ big + big }}",
        "{{ (big + big)|length }}",
        "{{ (big ~ big)|length }}",
        "{{ (big * 2)|length }}",
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% set x %}{% for i in range(9) %}{{ big }}{% endfor %}{% endset %}",
        BOMB,
        BOMB.replace("{{ i }}", "{{ i|upper }}"),
        BOMB.replace("{{ i }}", "{{ i ~ '' }}"),
        BOMB.replace("{{ i }}", "{{ i|tojson }}"),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_s16_a_template_neither_gets_out_nor_grows_nor_hangs(text: str) -> None:
    template = compile_template(text)
    began = time.thread_time()

    with pytest.raises(TemplateFault) as caught:
        template.render(VALUES)

    assert time.thread_time() - began < 3
    assert "\n" not in str(caught.value)
    assert "yyyy" not in str(caught.value)


def test_what_a_record_holds_is_not_told() -> None:
    for text in ("{{ {}[secret] }}", "{{ secret|int + [] }}", "{{ {'a': 1}[secret].b }}"):
        with pytest.raises(TemplateFault) as caught:
            compile_template(text).render({"secret": "hunter2"})
        assert "hunter2" not in str(caught.value)


@given(st.text())
def test_s17_a_value_is_never_a_template(value: str) -> None:
    clean = "".join("\ufffd" if c == "\x00" or "\ud800" <= c <= "\udfff" else c for c in value)

    assert compile_template("{{ v }}").render({"v": value}) == clean
    assert compile_template("{{ v|string }}").render({"v": value}) == clean


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.text(alphabet="ab {}%#\n-", max_size=12))
def test_the_fast_way_gives_what_jinja_gives(value: object, around: str) -> None:
    try:
        plain = compile_template(around + "{{ v }}")
        slow = compile_template(around + "{{ v }}{% if false %}{% endif %}")
    except ValueError:
        return

    assert plain.render({"v": value}) == slow.render({"v": value})
