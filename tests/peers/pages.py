"""Pages of metrics, good and bad, for a comparison of our reader and linter with promtool."""

from __future__ import annotations

GAUGE = "# HELP {0} x\n# TYPE {0} gauge\n{0} 1\n"


def gauges(*names: str) -> str:
    """Return a page of gauges whose only flaws can be their names."""
    return "".join(GAUGE.format(name) for name in names)


def page(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


_UNITS = """
amperes bytes celsius grams joules kelvin kelvins meters metres moles seconds volts ratio percent minutes hours
days weeks months years fahrenheit rankine inches yards miles feet bits calories pounds ounces second minute
kilobytes mibibytes mebibytes gibibytes kibibytes tebibytes pebibytes exbibytes exabytes milliseconds microseconds
nanoseconds picoseconds centimeters decimeters decameters hectometers kilometers megabytes gigabytes terabytes
petabytes milligrams kilobits megabits millivolts watts hertz tons liters kilopounds femtoseconds kiloseconds
"""
_ABBREVIATIONS = "s ms us ns sec b kb mb gb tb pb m h d min secs msec kib mib w v a g k km cm mm mins hrs eb"
UNITS, ABBREVIATIONS = _UNITS.split(), _ABBREVIATIONS.split()

PAGES: dict[str, str | bytes] = {
    "empty": "",
    "blank lines": page("  ", "\t", "a 1"),
    "no end of line": "a 1",
    "HTML": page("<html>", "</html>"),
    "no blank before the value": page('a{x="y"}1'),
    "a sign for a blank": page("a+1"),
    "a twin": page("# HELP a x", "# TYPE a gauge", "a 1", "a 1"),
    "a twin at another time": page("# HELP a x", "a 1 5", "a 1 6"),
    "a twin in other words": page("# HELP a x", 'a{b="1",c="2"} 1', 'a{c="2",b="1"} 1'),
    "twin buckets": page(
        "# HELP a x", "# TYPE a histogram", 'a_bucket{le="1"} 1', 'a_bucket{le="1"} 1', 'a_bucket{le="+Inf"} 1'
    ),
    "TYPE after a sample": page("a 1", "# TYPE a gauge"),
    "two TYPEs": page("# TYPE a gauge", "# TYPE a gauge", "a 1"),
    "two HELPs": page("# HELP a b", "# HELP a b", "a 1"),
    "HELP after a sample": page("a 1", "# HELP a foo"),
    "an unknown type": page("# TYPE a foo", "a 1"),
    "a type of OpenMetrics": page("# TYPE a info", "a 1"),
    "a type and a blank": page("# TYPE a gauge ", "a 1"),
    "a type in capitals": page("# HELP a x", "# TYPE a GAUGE", "a 1"),
    "a histogram of gauges": page("# HELP a x", "# TYPE a gauge_histogram", 'a_bucket{le="1"} 1', "a_count 1"),
    "the same in one word": page("# TYPE a gaugehistogram", 'a_bucket{le="1"} 1'),
    "NaN with a sign": page("a +nan"),
    "infinity": page("# HELP a x", "a infinity"),
    "a number in hex": page("a 0x10"),
    "a number with an underscore": page("a 1_0"),
    "half a number": page("# HELP a x", "a .5", "b 5.", "c 1e-3"),
    "a time": page("# HELP a x", "a 1 +5"),
    "a time in fractions": page("a 1 1.5"),
    "two times": page("a 1 5 6"),
    "a time too large": page("a 1 9223372036854775808"),
    "a tab at the end": page("\ta\t1\t5\t"),
    "a blank at the end": page("a 1 "),
    "ends of lines of DOS": page("a 1\r"),
    "a label twice": page('a{b="1",b="2"} 1'),
    "a reserved label": page('a{__name__="b"} 1'),
    "an unknown escape": page('a{b="\\x"} 1'),
    "escapes": page("# HELP a \\\\ \\n x", 'a{b="\\\\ \\n \\" {},= "} 1'),
    "an unknown escape in HELP": page("# HELP a x\\x", "a 1"),
    "a backslash at the end of HELP": page("# HELP a x\\", "a 1"),
    "a line that is wrong before one not in UTF-8": b'a 1\na x\na{b="\xff"} 1\n',
    "a comma at the end": page("# HELP a x", 'a{b="1",} 1'),
    "a comma at the beginning": page('a{,b="1"} 1'),
    "two commas": page('a{b="1",,c="2"} 1'),
    "empty braces": page("# HELP a x", "a{} 1"),
    "an open brace": page('a{b="1" 1'),
    "an open quote": page('a{b="1} 1'),
    "no quotes": page("a{b=1} 1"),
    "blanks in braces": page("# HELP a x", '  a  {  b  =  "c"  ,  }  1'),
    "a name in quotes": page('# HELP "a.b" x', '{"a.b",c="d"} 1'),
    "a label in quotes": page("# HELP a x", 'a{"c.d"="e"} 1'),
    "HELP not in UTF-8": b"# HELP a \xff\na 1\n",
    "a label not in UTF-8": b'# HELP a x\na{b="\xff"} 1\n',
    "a zero byte": b'# HELP a x\na{b="\x00"} 1\n',
    "a bound that is no number": page("# TYPE a histogram", 'a_bucket{le="x"} 1'),
    "a quantile that is no number": page("# TYPE a summary", 'a{quantile="x"} 1'),
    "a bucket without a bound": page("# HELP a x", "# TYPE a histogram", "a_bucket 1", "a_sum 1", "a_count 1"),
    "a histogram's bare name": page("# HELP a x", "# TYPE a histogram", "a 5"),
    "TYPE of a part": page("# TYPE x summary", "# TYPE x_count counter", "x_count 1"),
    "a histogram": page(
        "# HELP a_seconds x", "# TYPE a_seconds histogram", 'a_seconds_bucket{le="+Inf"} 1', "a_seconds_sum 1",
        "a_seconds_count 1",
    ),
    "a summary": page(
        "# HELP a_seconds x", "# TYPE a_seconds summary", 'a_seconds{quantile="0.5"} 1', "a_seconds_sum 1",
        "a_seconds_count 1",
    ),
    "no samples": page("# HELP a x", "# TYPE a counter"),
    "HELP without text": page("# HELP a", "# TYPE a gauge", "a 1"),
    "HELP with a blank": page("# HELP a ", "# TYPE a gauge", "a 1"),
    "TYPE without type": page("# TYPE a", "a 1"),
    "TYPE of nothing": page("# TYPE 1a gauge"),
    "remarks": page("#HELP a b", "#a", "# HELP", "# TYPE", "# a remark", "a 1"),
    "a family in pieces": page("# HELP a x", "# TYPE a gauge", "a 1", "# HELP b x", "b 1", 'a{x="1"} 2'),
    "a name that begins with a digit": page("1a 1"),
    "a name with a dot": page("a.b 1"),
    "a label that begins with a digit": page('a{1="x"} 1'),
    "a label with a colon": page('a{a:b="x"} 1'),
    "no value": page("a"),
    "labels and no value": page('a{b="c"}  '),
    "an end of OpenMetrics": page("a 1", "# EOF"),
    "no HELP": page("# TYPE a gauge", "a 1"),
    "a counter without _total": page("# HELP a x", "# TYPE a counter", "a 1"),
    "a gauge called _total": gauges("a_total"),
    "something untyped called _total": page("# HELP a_total x", "a_total 1"),
    "parts of nothing": gauges("y_bucket", "y_count", "y_sum"),
    "a counter called _bucket": page("# HELP y_bucket x", "# TYPE y_bucket counter", "y_bucket 1"),
    "a summary called _bucket": page("# HELP z_bucket x", "# TYPE z_bucket summary", "z_bucket_sum 1"),
    "a histogram called _count": page("# HELP z_count x", "# TYPE z_count histogram", 'z_count_bucket{le="+Inf"} 1'),
    "untyped parts": page("# HELP a_bucket x", 'a_bucket{le="1"} 1', "# HELP b x", 'b{quantile="1"} 1'),
    "labels of histograms": page("# HELP a x", "# TYPE a gauge", 'a{le="1"} 1', 'a{quantile="2"} 1'),
    "a summary with le": page("# HELP a x", "# TYPE a summary", 'a{quantile="0.5",le="x"} 1', "a_sum 1", "a_count 2"),
    "types in names": gauges("x_gauge", "x_gauge_y", "x_gauges", "gauge", "x_Gauge"),
    "a colon": gauges("co:lon"),
    "capitals": page("# HELP aB x", "# TYPE aB gauge", 'aB{cD="1",E="2"} 1', "# HELP AB x", "AB 1"),
    "a histogram with capitals": page("# HELP a x", "# TYPE a histogram", 'a_bucket{le="+Inf",xY="2"} 1'),
    "units": gauges(*[f"x_{unit}_y" for unit in UNITS]),
    "units at the end": gauges(*[f"x_{unit}" for unit in UNITS]),
    "units at the beginning": gauges(*UNITS, "kiloSeconds"),
    "two units": gauges("two_minutes_hours", "sec_minutes_seconds", "seconds_minutes"),
    "abbreviations": gauges(*[f"x_{unit}_y" for unit in ABBREVIATIONS]),
    "abbreviations at the end": gauges(*[f"x_{unit}" for unit in ABBREVIATIONS]),
    "abbreviations at the beginning": gauges(*[f"{unit}_y" for unit in ABBREVIATIONS]),
}  # fmt: skip

DIFFERENCES = {
    "a twin in other words": "promtool compares labels in the written order, probe-exporter in any order",
    "twin buckets": "promtool merges buckets before it looks for duplicate series",
    "a name in quotes": "Prometheus 3 accepts names beyond ASCII; promtool's `check metrics` does not",
    "a label in quotes": "the same for a label",
    "HELP not in UTF-8": "promtool does not check it",
}
"""Pages with a different verdict, and why; docs/modules/exporter.md has the same table."""
