#!/usr/bin/python3
"""Every test that docs/wan-protocol.md names exists, and every line of its tables of threats and of
the key schedule names one.

    protocol_doc_test.py DOCUMENT FUZZERS TEST-PROGRAM...        FUZZERS: names, separated by commas
"""
import fnmatch
import re
import subprocess
import sys


def tests_of(program):
    listed = subprocess.run([program, "--gtest_list_tests"], capture_output=True, text=True,
                            check=True).stdout
    suite, names = "", []
    for line in listed.splitlines():
        if line.startswith("  "):
            names.append(suite + line.split()[0])
        elif line.endswith("."):
            suite = line
    return names


def main():
    text = open(sys.argv[1], encoding="utf-8").read()
    fuzzers = sys.argv[2].split(",")
    known = [name for program in sys.argv[3:] for name in tests_of(program)]
    problems, rows = [], 0
    for header in ("| He tries | What happens | Test |", "| Line | Test |"):
        if header not in text:
            problems.append(f"the table '{header}' is gone")
            continue
        table = text[text.index(header):].split("\n\n")[0].splitlines()[2:]
        for row in table:
            rows += 1
            cell = row.strip().strip("|").split("|")[-1]
            named = re.findall(r"`([A-Z][A-Za-z]*\.[A-Za-z*]+)`", cell)
            fuzzed = re.findall(r"fuzz_wan_[a-z]+", cell)
            if not named and not fuzzed:
                problems.append(f"no test: {row}")
            problems += [f"no such fuzzer: {name}" for name in fuzzed if name not in fuzzers]
    for name in re.findall(r"`([A-Z][A-Za-z]*\.[A-Za-z*]+)`", text):
        if not fnmatch.filter(known, name):
            problems.append(f"no such test: {name}")
    print("\n".join(problems) or f"{rows} lines, all with tests")
    return 1 if problems or rows == 0 else 0


sys.exit(main())
