"""Run `prepare` as a program of its own, so that a test can kill it: SOURCE OUT WORKERS PAUSE."""

import sys

from tiny_data import tokenizers

from trimask.data.prepare import prepare

if __name__ == "__main__":
    source, out, workers, pause = sys.argv[1:]
    print("\n".join(prepare([source], tokenizers(float(pause)), out, workers=int(workers)).lines()))
