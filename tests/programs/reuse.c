/*
 * Fills memory by malloc in several threads, gives half of it back, and takes memory again: whatever must be zeros is
 * looked at byte by byte, and so is all that was kept.
 *
 * reuse PREFIX: says "ready", and goes on with a step whenever the file PREFIX.STEP appears.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4
#define BLOCKS 4000

static const size_t sizes[] = {24, 100, 1000, 3000, 5000, 20000, 70000, 20000, 200000, 1500000};
static const char *prefix;

struct block {
	size_t size;
	unsigned char *memory;
};

struct worker {
	pthread_t thread;
	unsigned seed;
	struct block blocks[BLOCKS];
};

static struct worker workers[THREADS], own;
static pthread_barrier_t barrier;
static __thread unsigned char thread_zeros[100000];

static void fail(const char *what)
{
	printf("WRONG %s\n", what);
	_exit(1);
}

static void await(const char *step)
{
	char path[200];
	snprintf(path, sizeof path, "%s.%s", prefix, step);
	while (access(path, F_OK))
		usleep(10000);
}

static int is_filled(const unsigned char *memory, size_t size, unsigned char with)
{
	return size == 0 || (memory[0] == with && memcmp(memory, memory + 1, size - 1) == 0);
}

static void take(struct worker *worker, int index, int zeroed)
{
	struct block *block = &worker->blocks[index];
	block->size = sizes[index % 40 ? (index * 7 + worker->seed) % 8 : (index / 40 + worker->seed) % 10];
	block->memory = zeroed ? calloc(1, block->size) : malloc(block->size);
	if (block->memory == NULL)
		fail("no memory");
	if (zeroed && !is_filled(block->memory, block->size, 0))
		fail("calloc is not zeros");
	memset(block->memory, index % 255 + 1, block->size);
}

static void check_kept(const struct worker *worker, int step)
{
	for (int i = 0; i < BLOCKS; i += step)
		if (!is_filled(worker->blocks[i].memory, worker->blocks[i].size, i % 255 + 1))
			fail("a kept block");
}

static void use_stack(int depth)
{
	volatile unsigned char deep[8000];
	memset((void *)deep, 0xa5, sizeof deep);
	if (depth)
		use_stack(depth - 1);
}

static void *run_briefly(void *unused)
{
	(void)unused;
	if (!is_filled(thread_zeros, sizeof thread_zeros, 0))
		fail("thread-local storage is not zeros");
	memset(thread_zeros, 0x77, sizeof thread_zeros);
	use_stack(100);
	pthread_barrier_wait(&barrier);
	return NULL;
}

/* Threads that end, so that their stacks are kept for the next ones. */
static void run_threads(void)
{
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, run_briefly, NULL))
			fail("no thread");
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void fill(struct worker *worker)
{
	for (int i = 0; i < BLOCKS; i++)
		take(worker, i, 0);
}

static void touch(struct worker *worker)
{
	check_kept(worker, 1);
	for (int i = 0; i < BLOCKS; i++)
		worker->blocks[i].memory[worker->blocks[i].size / 2] = i % 255 + 1; /* the same */
}

static void release(struct worker *worker)
{
	for (int i = 0; i < BLOCKS; i++)
		if (i % 8)
			free(worker->blocks[i].memory);
}

static void reuse(struct worker *worker)
{
	check_kept(worker, 8);
	for (int i = 0; i < BLOCKS; i++)
		if (i % 8)
			take(worker, i, 1);
	for (int i = 0; i < BLOCKS; i++)
		if (worker->blocks[i].size > 100000) { /* larger than before: all of it can be written to */
			struct block *block = &worker->blocks[i];
			block->memory = realloc(block->memory, block->size * 5);
			if (!is_filled(block->memory, block->size, i % 255 + 1))
				fail("realloc");
			block->size *= 5;
			memset(block->memory, i % 255 + 1, block->size);
		}
	check_kept(worker, 1);
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	fill(worker);
	pthread_barrier_wait(&barrier);
	await("touch");
	touch(worker);
	pthread_barrier_wait(&barrier);
	await("free");
	release(worker);
	pthread_barrier_wait(&barrier);
	await("reuse");
	reuse(worker);
	pthread_barrier_wait(&barrier);
	return NULL;
}

int main(int argc, char **argv)
{
	int (*trim)(size_t) = dlsym(RTLD_DEFAULT, "malloc_trim");
	void (*release_free)(void) = dlsym(RTLD_DEFAULT, "MallocExtension_ReleaseFreeMemory");
	(void)argc;
	prefix = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	pthread_barrier_init(&barrier, NULL, THREADS);
	run_threads();
	pthread_barrier_destroy(&barrier);
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++) {
		workers[i].seed = i;
		pthread_create(&workers[i].thread, NULL, work, &workers[i]);
	}
	fill(&own); /* where the first thread has its memory: in the brk heap */
	pthread_barrier_wait(&barrier);
	printf("ready\n");
	await("touch");
	touch(&own);
	pthread_barrier_wait(&barrier);
	printf("touched\n");
	await("free");
	release(&own);
	pthread_barrier_wait(&barrier);
	if (trim)
		trim(0);
	if (release_free)
		release_free();
	printf("freed\n");
	await("reuse");
	reuse(&own);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	pthread_barrier_destroy(&barrier);
	pthread_barrier_init(&barrier, NULL, THREADS);
	run_threads();
	printf("fine\n");
	for (;;)
		pause();
}
