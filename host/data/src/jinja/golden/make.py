"""What Jinja2 makes of many small templates, in the environment that transformers sets up.

    python make.py > golden.jsonl

The first line is the variable `messages`. Each other line is a template: its source, what it writes (`null` where it fails),
and `true` where the engine of this repository refuses what Python writes: the differences that `../mod.rs` lists. Written
with Jinja2 3.1.6 on Python 3.11.
"""

import copy
import itertools
import json
import re
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda format: datetime(2026, 11, 21, 8, 5, 9).strftime(format)

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <there>\n"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5, None]}}}]},
    {"role": "assistant", "content": "naïve 🙂"},
]

VALUES = [
    "none", "true", "false", "0", "1", "-7", "3.5", "1e16", "''", "'abc'", "'Hello World'", "' x y '", "'ÀÉß ǆ'", "'12'",
    "'a,b,,c'", "'two\\nlines\\r\\n'", "'Ab Cd'", "'ABC'", "[]", "[1, 2, 3]", "['b', 'A', 'c']", "[[1], 'x', none]",
    "(1, 2)", "(1,)", "()", "{}", "{'a': 1, 'b': [true]}", "{1: 'x', 'y': 2.0}", "nope", "range(3)", "range(0)", "dict",
    "namespace(a=1)", "{'k': 1}.items()", "{'k': 1}.keys()", "'x'.upper", "cycler(1, 2)", "messages", "messages[2]",
]  # fmt: skip
TESTS = [
    "odd", "even", "divisibleby(3)", "divisibleby(0)", "defined", "undefined", "filter", "test", "none", "boolean", "false",
    "true", "integer", "float", "lower", "upper", "string", "mapping", "number", "sequence", "iterable", "callable",
    "sameas(none)", "sameas(true)", "escaped", "in([1, 'abc', none])", "in('abc')", "eq(1)", "ne('abc')", "gt(0)", "lt('b')",
    "ge(1)", "le(2.5)", "nosuchtest", "not none", "equalto('abc')",
]  # fmt: skip
TEXTS = ["''", "'abc'", "'Hello World'", "' x  y '", "'ÀÉß ǆ'", "'-12'", "'a,b,,c'", "'xxaxx'", "'l1\\nl2\\r\\nl3'", "'a\\tb'"]
METHODS = [
    "capitalize()", "casefold()", "center(9)", "center(8, '*')", "center(3)", "count('x')", "count('')", "count('l', 3)",
    "endswith('c')", "endswith(('d', 'c'))", "endswith('')", "expandtabs()", "expandtabs(4)", "find('b')", "find('zz')",
    "find('x', 1)", "find('x', -2)", "index('b')", "index('zz')", "isalnum()", "isalpha()", "isascii()", "isdecimal()",
    "isdigit()", "isidentifier()", "islower()", "isnumeric()", "isprintable()", "isspace()", "istitle()", "isupper()",
    "join(['1', '2'])", "join([])", "join([1])", "join('ab')", "ljust(6)", "ljust(6, '.')", "ljust(6, '..')", "lower()",
    "lstrip()", "lstrip('xa')", "partition(',')", "partition('zz')", "partition('')", "removeprefix('a')",
    "removeprefix('')", "removesuffix('c')", "removesuffix('')", "replace('x', 'yy')", "replace('x', 'y', 1)",
    "replace('', '-')", "replace('x')", "rfind('x')", "rindex('b')", "rindex('zz')", "rjust(6)", "rjust(6, '0')",
    "rpartition(',')", "rpartition('zz')", "rsplit()", "rsplit(',')", "rsplit(',', 1)", "rsplit(none, 1)", "rstrip()",
    "rstrip('xc')", "split()", "split(',')", "split(',', 1)", "split(none, 1)", "split('')", "split(sep=',', maxsplit=2)",
    "splitlines()", "splitlines(true)", "startswith('a')", "startswith(('H', 'x'))", "startswith('b', 1)", "strip()",
    "strip('x')", "strip(none)", "strip('')", "swapcase()", "title()", "upper()", "zfill(6)", "zfill(0)", "nosuch()",
    "format(1)", "encode()", "upper(1)", "split(1)", "center()", "strip(chars='x')",
]  # fmt: skip
FILTERS = [
    "abs", "attr('upper')", "attr('a')", "batch(2) | list", "batch(2, 'f') | list", "batch(0) | list", "capitalize",
    "center(7)", "center", "count", "d('x')", "default('x', true)", "default(boolean=true)", "default", "dictsort",
    "dictsort(true)", "dictsort(by='value')", "dictsort(reverse=true)", "dictsort(by='nosuch')", "e", "escape",
    "filesizeformat", "first", "float", "float(7)", "forceescape", "format(1)", "format", "format(a=1)", "indent",
    "indent(2, true)", "indent('>', blank=true)", "int", "int(9)", "int(base=16)", "items | list", "join", "join('-')",
    "join(', ', attribute='role')", "last", "length", "list", "lower", "map('upper') | list", "map(attribute='role') | list",
    "map(attribute='x', default='d') | list", "map('nosuch') | list", "map | list", "max", "min", "max(attribute='role')",
    "reject('odd') | list", "reject('none') | list", "rejectattr('role', 'eq', 'user') | list",
    "replace('a', 'b')", "replace(1, 2)", "replace('a', 'b', 1)", "reverse | list", "reverse", "round", "round(1)",
    "round(-1)", "round(0, 'ceil')", "round(1, 'floor')", "round(1, 'x')", "safe", "select | list",
    "select('string') | list", "select('gt', 1) | list", "selectattr('role', 'eq', 'user') | list",
    "selectattr('tool_calls') | list", "selectattr('role', 'in', ['user', 'tool']) | map(attribute='content') | join",
    "slice(2) | list", "slice(2, 'f') | list", "slice(0) | list", "sort", "sort(reverse=true)", "sort(case_sensitive=true)",
    "sort(attribute='role')", "string", "sum", "sum(start=10)", "sum(attribute='x')", "title", "tojson", "tojson(indent=2)",
    "tojson(sort_keys=true)", "tojson(separators=(',', ':'))", "tojson(ensure_ascii=true)", "tojson(indent='>')", "trim",
    "trim('x')", "truncate(5)", "truncate(5, true)", "truncate(5, end='', leeway=0)", "truncate(2)", "unique | list",
    "unique(true) | list", "upper", "urlencode", "wordcount", "xmlattr", "groupby('role')", "groupby(0)",
    "groupby('x', default='d')", "nosuchfilter", "map('default', 'd') | list", "tojson | tojson", "map('int') | sum",
]  # fmt: skip
OPERANDS = [
    "none", "true", "0", "-7", "3.5", "''", "'%s!'", "[1]", "(1, 'a')", "{'a': 1}", "nope", "10000000000000000",
]  # fmt: skip
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
FORMATS = [
    ("%d", ["1", "-1", "3.9", "'x'", "true", "none"]), ("%5d|%-5d|%05d|%+d", ["(1, 2, 3, 4)"]), ("%s %r", ["('a', 'a')"]),
    ("%s", ["none", "[1, 'a']", "(1,)", "(1, 2)", "'é'", "1.0", "nope", "{'a': 1}"]), ("%.2f|%8.3f|%-8.1f|%08.2f", ["(1, 2.5, 3, 4.25)"]),
    ("%e %E %g %G", ["(12345.678, 0.00001, 1e20, 0.0001)"]), ("%x %X %o %#x %#o", ["(255, 255, 8, 255, 8)"]),
    ("%(a)s-%(b)5.1f%%", ["{'a': 1, 'b': 2}", "{'a': 1}", "1"]), ("%c%c", ["(65, 'b')"]), ("%*d|%-*s|%.*f", ["(5, 1, 4, 'x', 1, 2.25)"]),
    ("%", ["1"]), ("%y", ["1"]), ("100%", ["()"]), ("x", ["1", "()", "[1]", "{'a': 1}"]), ("%s %s", ["1", "(1,)"]), ("% d|%+5.3d", ["(3, 4)"]),
    ("%.3s|%10s|%-10s", ["('abcdef', 'é', 'é')"]), ("%5%|%i|%u", ["(1, 2)"]),
]  # fmt: skip
SPECS = [
    ("1234567", ["", "d", ",", "_", "+d", " d", "010", "<10", ">10", "^10", "*^10", "=10", "x", "#x", "X", "b", "#b", "o", "e", ".2f",
                 ",.2f", "%", "g", "n", "012,", "_x", "s", ".3", "c", "+,"]),
    ("-42", ["05", "=+6", "x", "#010x", "<5", "^7", ",", " "]),
    ("3.14159", ["", ".2f", ".3", "8.2f", "<8.1f", "+.1f", "e", ".1e", "g", ".2g", "%", ".1%", "010.3f", "d", "x", ",", "E", "G", "F"]),
    ("1e20", ["", "f", ",", "g", ".3", "e"]), ("100.0", ["", "g", ".3", ".1", "n"]), ("0.00001", ["", "g", "f", ".2"]),
    ("'abc'", ["", "10", "<10", ">10", "^10", "*^9", ".2", "10.1", "s", "d", "=10", "05", ","]),
    ("true", ["", "d", "5", "x"]), ("none", ["", "5"]), ("[1]", ["", "5"]),
]  # fmt: skip
FIELDS = [
    "'{}-{}'.format(1, 'a')", "'{0}{1}{0}'.format(1, 2)", "'{a}{b!r}'.format(a=1, b='x')", "'{{}}'.format()", "'{'.format(1)",
    "'}'.format(1)", "'{}'.format()", "'{x}'.format(y=1)", "'{0[0]}{1[k]}'.format([5], {'k': 6})", "'{0.a}'.format({'a': 1})",
    "'{:{}}|'.format('x', 5)", "'{:>{w}}'.format(1, w=4)", "'{!s:>4}'.format(1)", "'{!x}'.format(1)", "'{a}'.format_map({'a': 3})",
    "'{0.upper}'.format('a')", "'{} {}'.format('a')", "'{:{}{}}'.format('x', '>', 5)",
]  # fmt: skip
SLICES = ["[0]", "[-1]", "[9]", "['a']", "[1:]", "[:-1]", "[::-1]", "[::2]", "[5:1]", "[-2:]", "[1:3]", "[none:2]", "[::0]", "[true]",
          "[1.0]", "[3:0:-2]", "[-100:100]", "['0':]", ".a", ".0", ".items", ".nosuch", ".upper()", "[[1]]"]  # fmt: skip
PRINTED = [
    "1.0", "1e16", "1e15", "1e-5", "0.0001", "123456789012345680.0", "1e300 * 1e10", "-(1e300 * 1e10)", "0.1 + 0.2", "-0.0", "1e22", "5e-324",
    "(1, 2)", "(1,)", "()", "[(1, 'a'), {'k': (none, true)}]", "{'a': {'b': \"it's\"}}", "'q\"' ~ [\"q'\\\"\", 'a\\\\b', '\\x00\\x7f\\xa0é🙂\\u200b']",
    "{1: 2, none: 3, (1, 2): 4, 1.0: 5, true: 6}", "2 ** 100", "170141183460469231731687303715884105727 + 0", "10 ** 30 // 7", "7 // -2", "-7 // 2", "-7 % 3",
    "7 % -3", "7.5 // -2", "-7.5 % 2", "2 ** -1", "0 ** 0", "1 / 3", "6 / 3", "1 // 0", "1 % 0", "1 / 0", "1.5 // 0.0", "(-8) ** 0.5", "2 ** 0.5", "-2 ** 2",
    "2 ** 3 ** 2", "not not 1", "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0 == true", "'a' < 'b'", "[1, 2] < [1, 3]", "(1, 2) == [1, 2]", "{} == {}",
    "{'a': 1} == {'a': 1.0}", "none == nope", "nope == nope2", "true + true", "-true", "+true", "'a' * 3", "3 * 'a'", "[1] * 2", "(1,) * 2", "'a' * -1",
    "[1, 2] + [3]", "(1,) + (2,)", "1 if true", "1 if false", "1 if false else 2 if false else 3", "'a' 'b'", "1_000", "0x1f", "0b11", "0o17", "1e3", "1.5e-3",
    "1_0.5", "[1, 2,]", "{'a': 1,}", "(1, 2,)", "'a' in 'abc'", "1 in [1, 2]", "'k' in {'k': 1}", "'x' not in 'abc'", "1 in (1,)", "none in [none]", "[1] in [[1]]",
    "(1, 2) in {'a': 1}.items()", "2 in range(5)", "1.5 in range(5)", "'\\u00e9\\x41\\101\\q\\a'", "'\\'' ~ \"\\\"\"", "'a\\\nb'", "nope.x", "nope['x']", "nope()",
    "none.x", "none['x']", "(1).x", "'abc'.x.y", "messages.0.role", "messages[0]['role']", "messages[-1].content", "messages[2].tool_calls[0].function.arguments",
    "messages[2].items() | list", "messages | length", "messages[0].keys() | list", "messages[0].values() | list", "messages[0].get('x')", "messages[0].get('x', 1)",
    "{'items': 1}.items", "{'items': 1}.items()", "{'items': 1}['items']", "{'get': 1}.get('get')", "{'a': 1}.copy()", "{'pop': 1}.pop", "{'pop': 1}.pop()", "[1].append(2)",
    "{'a': 1}.update({'b': 2})", "[3, 1, 2].index(1)", "[1, 1].count(1)", "(1, 2).index(2)", "[1].index(5)", "[1].copy()", "{}.__class__", "'x'.__class__", "[].__len__()",
    "{'__x': 1}.__x", "{'_x': 1}._x", "range(5)", "range(1, 5, 2)", "range(5) | list", "range(5, 0, -2) | list", "range(200000)", "range(0, 10, 0)", "dict(a=1)",
    "dict({'a': 1}, b=2)", "dict([('a', 1)])", "dict([1])", "namespace(a=1).a", "namespace({'a': 1}).a", "namespace(a=1).b", "joiner(',')", "cycler()", "lipsum",
    "strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %A %a %j %y %p %I')", "raise_exception('no')", "strftime_now('%-d')", "true and 'x' or 'y'", "none or ''", "[] or 0",
    "'ß'.upper() ~ 'İ'.lower() ~ 'ΑΣ'.lower()", "'ﬁ ŉ Ǆ'.title()", "'ა'.capitalize() ~ 'ა'.upper()", "'x' is in ['x']", "'x' is not in ['x']", "1 is not odd", "2 is divisibleby 2",
    "3 is odd and 2 is even", "'a' is eq 'a'", "messages is sequence and messages is iterable", "'%s' % 'a' ~ 'b'", "'%s' % ('a' ~ 'b')", "'a' | upper ~ 'b'", "-1 | abs", "(-1) | abs",
    "'a,b'.split(',')[0]", "'a,b'.split(',') | last", "(1, 2)[0]", "'é🙂x'[1]", "'é🙂x'[::-1]", "'é🙂x' | length", "'a' < 1", "[1] < 1", "none < 1", "{} < {}", "max(1, 2)",
    "loop", "self", "caller", "varargs", "'<a>' | e ~ '<b>'", "('<a>' | e) + '<b>'", "('<a>' | safe) + '<b>'", "'<a>' | e | length", "['<'] | join | e", "'&lt;' | e", "5 | string + 'x'",
    "('a', 'b') | join", "{'b': 1, 'a': 2} | join(',')", "{'b': 1} | list", "'abc' | list", "'abc' | first ~ 'abc' | last", "'' | first", "[] | last", "[] | max", "[] | min", "[] | sum",
    "[1, 'a'] | sort", "['B', 'a', 'C'] | sort", "['B', 'a'] | min", "[{'a': 2}, {'a': 1}] | sort(attribute='a')", "[{'a': {'b': 2}}] | map(attribute='a.b') | list", "[[1, 2]] | map(attribute=1) | list",
    "[1, 2] | map('string') | join", "'1,2' | replace(',', '') | int + 1", "'0x1F' | int(base=16)", "'z' | int(5)", "'1_000' | int", "' 12 ' | int", "'1e3' | int", "'12.9' | int", "12.9 | int",
    "-12.9 | int", "none | int", "[] | int(3)", "'inf' | float", "'nan' | float", "'1_0.5' | float", "'x' | float(2.5)", "true | int", "2.5 | round", "3.5 | round", "0.125 | round(2)", "1234 | round(-2)",
    "15 | round(-1)", "25 | round(-1)", "2.675 | round(2)", "1e20 | round", "5 | round", "5 | round(1)", "'a b' | urlencode", "'é/?&=' | urlencode", "1000 | filesizeformat", "1024 | filesizeformat(true)",
    "1 | filesizeformat", "123456789 | filesizeformat", "'foo bar baz' | truncate(9)", "'foo bar baz' | truncate(9, true)", "'foobar' | truncate(3, true, '')", "'a-b (c) d' | title", "\"it's fine\" | title", "\"it's\".title()",
    "['a', 'A', 'b'] | unique | list", "{'b': 1, 'A': 2} | dictsort", "{'b': 1, 'A': 2} | dictsort(by='value')", "[1, 2, 3, 4] | batch(3) | list", "[1, 2, 3, 4] | slice(3) | list", "{'x': none, 'y': '<'} | xmlattr",
    "[{'k': 'a', 'v': 1}, {'k': 'B', 'v': 2}, {'k': 'A', 'v': 3}] | groupby('k')", "messages | map(attribute='role') | unique | list", "messages | selectattr('role', 'equalto', 'user') | first",
    "messages | selectattr('role', 'equalto', 'none') | list | length", "messages | rejectattr('role', 'in', ['system']) | list | length", "[1, 2, 3] | select('gt', 1) | list", "[0, 1, '', none] | select | list",
    "messages[1:] | map(attribute='content') | map('trim') | join('|')", "messages | tojson", "messages[2] | tojson(indent=4)", "{'é': '🙂', 'a\"': '<&>'} | tojson(ensure_ascii=true)", "{'b': 1, 'a': 2} | tojson(sort_keys=true)",
    "[1.0, 1e16, 1e-7, none, true, (1, 2)] | tojson", "{1: 2, true: 3, none: 4} | tojson", "[] | tojson(indent=2)", "{} | tojson(indent=0)", "[1] | tojson(indent=0)", "nope | tojson", "range(2) | tojson", "1 | tojson", "'a\\x7f\\u2028' | tojson",
    "'abc' | reverse", "[1, 2] | reverse | list", "'a' | default('b')", "nope | default('b')", "none | default('b')", "none | default('b', true)", "nope | default", "nope | length", "5 | length", "none | length", "nope | list", "5 | list",
    "nope | upper", "none | upper", "5 | upper", "[1] | upper", "nope | join", "nope | first", "nope | trim", "nope ~ 'x'", "none ~ 'x'", "1 ~ 2.0 ~ true", "'x' | indent", "'a\\n\\nb' | indent(2)", "'a\\n' | indent(2, true, true)", "'a' | center(4) ~ '|'",
    "'a b_c é-d' | wordcount", "'  x ' | trim", "'xax' | trim('x')", "'a' is lower", "'1' is lower", "'A' is upper", "'' is string", "{} is mapping", "[] is mapping", "'x' is sequence", "{} is sequence", "none is iterable", "nope is iterable", "5 is iterable",
    "1 is number", "true is number", "true is integer", "1.0 is float", "'upper' is filter", "'odd' is test", "none is sameas none", "1 is sameas true", "dict is callable", "'x'.upper is callable", "nope is callable", "nope is sequence", "nope is defined",
    "'%05.1f|%x|%s' | format(3.14159, 255, 'z')", "'%(a)s' | format(a=1)", "'%s' | format", "'{}' | format(1)", "(1, 2) ~ ''", "[none, true] ~ ''", "'' if none is defined else 'u'", "messages[0].role == 'system'", "messages[9]", "messages[9].x",
]  # fmt: skip
BLOCKS = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "  {% if true %}  x  {% endif %}  \n y", "{%- if true -%}  x  {%- endif -%}  y", " {{- 1 -}} x", "{# c #}\nx {#- y -#} z", "x  {#+ c +#}\n y",
    "  {%+ if true %}x{% endif +%}\n y", "{% raw %}{{ x }}{% endraw %}", "{% raw %}\n {% x %}\n  {% endraw %}\ny", "a {%- raw -%} b {%- endraw -%} c", "x\r\ny\rz\n", "x\n\n", "{{ 'a\nb' }}", "{% set x = 1 %}\n{{ x }}\n\n",
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.previtem }}<{{ i }}<{{ loop.nextitem }} {% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}", "{% for i in [1] %}x{% else %}none{% endfor %}",
    "{% for i in [1, 2, 3, 4] if i is even %}{{ i }}{{ loop.last }}{{ loop.length }} {% endfor %}", "{% for a, b in {'x': 1, 'y': 2}.items() %}{{ a }}={{ b }},{% endfor %}", "{% for k in {'x': 1} %}{{ k }}{% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for c in 'abc' %}{{ c }}.{% endfor %}", "{% for i in 5 %}{% endfor %}", "{% for i in nope %}x{% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% set x = 0 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(x=0) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% if false %}{% set y = 1 %}{% endif %}{{ y }}", "{% if true %}{% set y = 1 %}{% endif %}{{ y }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set x %}a{{ 1 }}b{% endset %}{{ x }}", "{% set x | upper | replace('A', 'z') %}a{{ 1 }}b{% endset %}{{ x }}",
    "{% set x %}{% set z = 5 %}{% endset %}{{ z }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% filter upper %}a{{ 'b' }}{% endfilter %}", "{% filter replace('a', 'c') | upper %}ab{% endfilter %}",
    "{% macro f(a, b=2, c=b) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(c=1, a=0) }} {{ f() }}", "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(b=1) }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}", "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}x{% endcall %}", "{% macro f() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) f() %}{{ a }}-{{ b }}{% endcall %}",
    "{% macro f() %}{{ caller }}{% endmacro %}{{ f() }}", "{% macro f(x) %}{{ x }}{% endmacro %}{% for i in [1, 2] %}{{ f(i) }}{% endfor %}", "{% for i in [1, 2] %}{% macro g() %}{{ i }}{% endmacro %}{{ g() }}{% endfor %}", "{% macro f() %}a{% endmacro %}{{ f }}", "{% macro f() %}a{% endmacro %}{{ f() | upper }}{{ f.name }}",
    "{% for i in [1, [2, [3]]] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}d{{ loop.depth }}{% endif %}{% endfor %}", "{% for i in [1] %}{{ loop([2]) }}{% endfor %}", "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}", "{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b", "{% for i in [1, 2] %}{% for j in [3, 4] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% for i in messages | selectattr('role', 'eq', 'user') %}{{ loop.length }}{{ i.role }}{% endfor %}",
    "{% set g = [1, 2] | map('string') %}{{ g | list }}{{ g | list }}", "{% set g = [1, 2] | select('odd') %}{{ 'y' if g else 'n' }}", "{% set g = [] | select('odd') %}{{ 'y' if g else 'n' }}", "{{ [1, 2] | map('string') | first }}", "{{ [1, 2] | map('string') | last }}", "{{ [1, 2] | map('string') | length }}", "{{ [2, 1] | map('int') | sort }}",
    "{% if nope %}a{% elif none %}b{% elif [] %}c{% else %}d{% endif %}", "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set s = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ s }}{{ loop_messages | length }}", "{% print 1, 2 %}", "{% if 1, 2 %}x{% endif %}",
    "{% for i in 1, 2 %}{{ i }}{% endfor %}", "{% for i in [1, 2] if i > 1 else [3] %}{{ i }}{% endfor %}", "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b = ns.a + 1 %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}", "{% set x.y = 1 %}", "{% set d = {} %}{% set d.y = 1 %}", "{% do 1 %}", "{% nosuch %}", "{% if %}", "{% endif %}", "{% for %}", "{{", "{{ }}", "{{ 1", "{% if true %}",
    "{{ 1 | }}", "{{ (1 }}", "{{ 1) }}", "{{ [1 }}", "{{ 'a }}", "{% set 1 = 2 %}", "{% set none = 2 %}", "{{ a b }}", "{% break %}", "{% for i in [1] %}{% set loop = 1 %}{% endfor %}", "{% macro f(a=1, b) %}{% endmacro %}", "{{ f(a=1, 2) }}", "{{ range(*[1, 4]) | list }}", "{{ dict(**{'a': 1}) }}", "{{ range(*5) }}", "{% raw %}", "{# x", "{{ 1 is odd is even }}", "{% call 1 %}{% endcall %}",
    "{{ x.y.z if x is defined else 'q' }}", "{{ ns.x if ns is defined and ns.x }}", "{%- for m in messages -%}\n  {{- m.role }}: {{ m.content | trim }}\n{%- endfor %}", "{%if true%}1{%endif%}", "{{1}}{{2}}", "{{ {'a': {'b': 1}}.a.b }}", "{{ {'a': 1} }}", "{{ '}}' }}{{ '%}' }}", "{% if '%}' %}x{% endif %}", "{ {a} }{", "{{ '{{' }}", "{%- set x -%} a {%- endset -%} [{{ x }}]",
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}x{% endif %}{{ '<|' + m['role'] + '|>' }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}", "{% for m in messages if not stop %}{{ m.role }}{% set stop = true %}{% endfor %}", "{% set ns = namespace(s=false) %}{% for m in messages if not ns.s %}{{ m.role }}{% set ns.s = true %}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}", "{% set x = 5 %}{% for x in [1] %}{{ x }}{% endfor %}{{ x }}", "{% macro f() %}{% set x = 9 %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}{{ x }}", "{% if true %}{% macro f() %}m{% endmacro %}{% endif %}{{ f() }}", "{% include 'x' %}", "{% if false %}{% include 'x' %}{% endif %}ok", "{% import 'x' as y %}", "{% extends 'x' %}",
    "{{ 1\n+\n2 }}", "{%\nset x = 1\n%}{{ x }}", "{{ 'a' if 1 else 'b' ~ 'c' }}", "{{ not 1 == 2 }}", "{{ 1 + 2 * 3 - 4 / 2 }}", "{{ 'x' * 2 ~ 'y' }}", "{{ -1 ** 2 }}", "{{ 1 if 1 if 0 else 2 }}", "{{ (1 if 0) is defined }}", "{{ messages.index }}", "{{ true.x }}", "{{ loop.index }}", "{% for i in [3, 4] %}{{ loop['index'] }}{% endfor %}", "{% for i in [3, 4] %}{{ loop }}{% endfor %}",
]  # fmt: skip

# Where our engine refuses what Python writes. Patterns of templates; `../mod.rs` says the same in words.
REFUSED = [
    r"^\{\{ \((dict|namespace\(a=1\)|'x'\.upper|cycler\(1, 2\))\) (\| (e|escape|forceescape|capitalize|lower|replace.*|title|upper|urlencode|wordcount) |is (lower|upper) )",
    r"v = range\(4\).*:|\{\{ self \}\}",
    r"encode\(\)|'ÀÉß ǆ'\.casefold|\(-8\) \*\* 0\.5|\(-7\) \*\* \(3\.5\)",
]


def classes(output):
    """Whether Python's answer depends on an address in memory, or on what only Python has."""
    return " at 0x" in output or "<class" in output or "<built-in" in output or "Namespace" in output or "LoopContext" in output


def templates():
    for value, test in itertools.product(VALUES, TESTS):
        yield "{{ (" + value + ") is " + test + " }}"
    for text, method in itertools.product(TEXTS, METHODS):
        yield "{{ " + text + "." + method + " }}"
    for value, filter in itertools.product(VALUES, FILTERS):
        yield "{{ (" + value + ") | " + filter + " }}"
    for left, operator, right in itertools.product(OPERANDS, OPERATORS, OPERANDS):
        if operator == "**" and len(right) > 10:
            continue  # Python computes for ever.
        yield "{{ (" + left + ") " + operator + " (" + right + ") }}"
    for format, values in FORMATS:
        for value in values:
            yield "{{ '" + format + "' % " + value + " }}"
    for value, specs in SPECS:
        for spec in specs:
            yield "{{ '{:" + spec + "}'.format(" + value + ") }}"
    for value, slice in itertools.product(["'abcdé'", "[1, 2, 3]", "(1, 2)", "{'a': 1}", "''", "range(4)", "none", "nope", "5"], SLICES):
        # By way of a variable: Jinja folds constants, and takes one that cannot be sliced for undefined.
        yield "{% set v = " + value + " %}{{ v" + slice + " }}"
    for printed in PRINTED + FIELDS:
        yield "{{ " + printed + " }}"
    for value in VALUES:
        yield "{{ " + value + " }}{{ [" + value + "] }}{{ 'y' if " + value + " else 'n' }}"
    yield from BLOCKS


def main():
    print(json.dumps(MESSAGES, ensure_ascii=False))
    seen = set()
    for source in templates():
        if source in seen:
            continue
        seen.add(source)
        line = [source]
        try:
            output = environment.from_string(source).render(messages=copy.deepcopy(MESSAGES))
            output.encode()
            line.append(output)
            if classes(output) or any(re.search(pattern, source) for pattern in REFUSED):
                line.append(True)
        except Exception:  # whatever Jinja raises
            line.append(None)
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
