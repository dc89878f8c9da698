"""Run `prepare` as a program of its own, so that a test can kill it: SOURCE OUT WORKERS PAUSE."""

import signal
import sys

from tiny_data import tokenizers

from trimask.data.prepare import prepare

if __name__ == "__main__":
    # A shell starts what runs in the background with Ctrl-C ignored, and what that starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    source, out, workers, pause = sys.argv[1:]
    print("\n".join(prepare([source], tokenizers(float(pause)), out, workers=int(workers)).lines()))
