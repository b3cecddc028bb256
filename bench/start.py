"""How long commands take from their start to their end, above Node itself: whole processes, in turn.

    python3 bench/start.py IMAGE [OTHER]

IMAGE is a picture to embed with the starter model; OTHER is another checkout that was built, to compare with. Prints
for each command the least and the median of processor time and of time on the clock, and the median of the ratios to
the other checkout, run by run, which hold on a machine that is in use too.
"""
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

RUNS = 11


def measure(command):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def main():
    image, *others = sys.argv[1:]
    checkouts = [str(Path(__file__).parent.parent), *others[:1]]
    with tempfile.TemporaryDirectory() as folder:
        embed = ['embed', image, '--model', 'starter', '--force', '-o', os.path.join(folder, 'one.parquet')]
        commands = {
            '--help': ['--help'],
            'embed --help': ['embed', '--help'],
            'embed of one image, wasm': [*embed, '--engine', 'wasm'],
            'embed of one image, torch': [*embed, '--engine', 'torch'],
        }
        print(f'| least / median of {RUNS} runs | processor time, s | time on the clock, s | ratio to the other: processor | clock |')
        print('| --- | --- | --- | --- | --- |')
        for name, args in {'node -e 0': None, **commands}.items():
            runs = [['node', '-e', '0']] if args is None else [['node', f'{checkout}/bin/run.js', *args] for checkout in checkouts]
            for run in runs:
                measure(run)  # what is compiled and cached once
            measured = [[measure(run) for run in runs] for _ in range(RUNS)]
            cells = []
            for i in (0, 1):
                own = [row[0][i] for row in measured]
                cells.append(f'{min(own):.2f} / {median(own):.2f}')
            ratios = [f'{median(row[0][i] / row[1][i] for row in measured):.2f}' if len(runs) > 1 else '' for i in (0, 1)]
            print(f'| {name} | {" | ".join(cells + ratios)} |')


main()
