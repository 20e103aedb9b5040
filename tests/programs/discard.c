/*
 * Gives memory back with madvise(MADV_DONTNEED) by itself, and relies on reading zeros afterwards.
 *
 * discard PREFIX: says "ready", and goes on when the file PREFIX.free appears.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE (8UL << 20)

int main(int argc, char **argv)
{
	char path[200];
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	(void)argc;
	memset(memory, 'x', SIZE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready\n");
	snprintf(path, sizeof path, "%s.free", argv[1]);
	while (access(path, F_OK))
		usleep(10000);
	madvise(memory, SIZE, MADV_DONTNEED);
	printf("%s\n", memory[0] == 0 && memcmp(memory, memory + 1, SIZE - 1) == 0 ? "fine" : "WRONG no zeros");
	for (;;)
		pause();
}
