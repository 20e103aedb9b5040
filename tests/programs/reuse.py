"""Fills memory, gives it back, and takes memory again; see reuse.c. Usage: reuse.py PREFIX."""

import ctypes
import gc
import hashlib
import sys
import threading
import time
from pathlib import Path


def wait_for(step):
    while not Path(f"{sys.argv[1]}.{step}").exists():
        time.sleep(0.01)


def digest():
    text = repr([(key, kept[key]) for key in sorted(kept)]) + repr([sum(each) for each in buffers[::2]])
    return hashlib.sha256(text.encode()).hexdigest()


def check_zeros():
    for size in [*range(1, 600, 7), *range(1000, 200_000, 3333), 1 << 20, 5 << 20]:
        made = [bytes(size), bytearray(size), memoryview(bytearray(size))]
        if any(any(each) for each in made):
            print("WRONG no zeros", size, flush=True)
            sys.exit(1)
        recycled.append([bytearray(b"\xff" * size) for _ in range(4)])
        if len(recycled) > 30:
            recycled.clear()


recycled = []
kept = {number: {"text": str(number) * 5, "list": [number] * 5} for number in range(60_000)}
dropped = [[str(number), {number: [number]}] for number in range(200_000)]
buffers = [bytearray([number % 255 + 1]) * (3000 * (number % 100 + 1)) for number in range(400)]
numbers = list(range(100_000))
known = digest()
print("ready", flush=True)
wait_for("touch")
assert digest() == known
print("touched", flush=True)
wait_for("free")
del dropped
for number in range(1, 400, 2):
    buffers[number] = b""
gc.collect()
getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
print("freed", flush=True)
wait_for("reuse")
for _ in range(3):
    check_zeros()
    threads = [threading.Thread(target=check_zeros) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers.extend(range(len(numbers), len(numbers) * 3))  # realloc of a large block
    buffers[0].extend(b"\x01" * 3_000_000)
    del buffers[0][-3_000_000:]
same = digest() == known and numbers == list(range(len(numbers)))
print("fine" if same else "WRONG what was kept", flush=True)
while True:
    time.sleep(1)
