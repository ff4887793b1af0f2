"""What the system says of the processor."""

from functools import cache


@cache
def cpuinfo() -> dict[str, str]:
    """The fields of /proc/cpuinfo, of the first processor; none on a system other than Linux."""
    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return fields


def units() -> set[str]:
    """An x86 processor's flags, "avx2" for example."""
    return set(cpuinfo().get("flags", "").split())
