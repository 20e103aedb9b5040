/*
 * Enlarges a large block of malloc, which the C library does with mremap where it can, and writes to all of it.
 *
 * grow PREFIX ALIGNMENT: says "ready", and goes on when the file PREFIX.free appears.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE (4UL << 20)

int main(int argc, char **argv)
{
	char path[200];
	void *memory = NULL;
	(void)argc;
	if (posix_memalign(&memory, strtoul(argv[2], NULL, 10), SIZE))
		return 1;
	memset(memory, 'x', SIZE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready\n");
	snprintf(path, sizeof path, "%s.free", argv[1]);
	while (access(path, F_OK))
		usleep(10000);
	volatile char *larger = realloc(memory, 16 * SIZE);
	for (unsigned long i = SIZE; i < 16 * SIZE; i += 4096)
		larger[i] = 'y';
	printf("%s\n", larger[0] == 'x' && memcmp((char *)larger, (char *)larger + 1, SIZE - 1) == 0 ? "fine" : "WRONG");
	for (;;)
		pause();
}
