"""Runs the stories against the node at $CIRO_STARKNET_URL.

    run.py [PART-OF-A-NAME]...    all of them, or those with a name like that
"""

import pathlib
import sys
import time
import unittest


def stories(suite):
    for test in suite:
        yield from stories(test) if isinstance(test, unittest.TestSuite) else (test,)


class Result(unittest.TextTestResult):
    """One line a story, with the time it took."""

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        unittest.TestResult.addSuccess(self, test)
        self.stream.writeln(f"ok ({time.monotonic() - self.began:.1f} s)")

    def getDescription(self, test):
        return f"{type(test).__name__}: {test._testMethodName.removeprefix('test_').replace('_', ' ')}"


def main(wanted):
    pattern = "costs.py" if wanted == ["--costs"] else "test*.py"
    wanted = [] if pattern == "costs.py" else wanted
    found = unittest.defaultTestLoader.discover(str(pathlib.Path(__file__).parent), pattern)
    chosen = [test for test in stories(found) if not wanted or any(part in test.id() for part in wanted)]
    runner = unittest.TextTestRunner(stream=sys.stdout, resultclass=Result, verbosity=2)
    result = runner.run(unittest.TestSuite(chosen))
    failed = len(result.failures) + len(result.errors)
    verdict = "ok" if chosen and not failed else "FAILED"
    print(f"test result: {verdict}. {result.testsRun - failed} passed; {failed} failed")
    return 0 if verdict == "ok" else 1


sys.exit(main(sys.argv[1:]))
