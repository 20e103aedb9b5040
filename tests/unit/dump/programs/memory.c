/*
 * Fills memory of many kinds with a known pattern, in a parent, its threads and its children. On SIGUSR1 every process
 * checks its own, writes to it, and checks it again.
 *
 * memory MEGABYTES CHILDREN
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define WORDS (PAGE / 8)

enum { ALL, ZERO_STRETCHES, SHORT_RUNS, NEAR_RUNS, GUARDED, READ_ONLY, SHARED, ADVISED, EXECUTABLE, OF_FILE, KINDS };

#define FILE_WORD 0x5555555555555555UL

struct region {
	const char *name;
	uint64_t *memory;
	size_t pages;
	int kind;
};

static struct region regions[KINDS];
static uint64_t salt; /* differs where a child has written */
static volatile uint64_t thread_sums[4];

static int is_filled(const struct region *region, size_t page)
{
	switch (region->kind) {
	case ZERO_STRETCHES: /* filled, 64 pages of zeros, filled with single zero pages, ... */
		return (page / 64) % 3 == 0 || ((page / 64) % 3 == 2 && page % 8 != 3);
	case SHORT_RUNS:
		return page % 32 < 3;
	case NEAR_RUNS:
		return page % 32 < 29;
	case GUARDED:
		return page % 64 >= 2;
	case OF_FILE: /* filled, zeros, as the file has it, ... */
		return page % 64 < 40;
	default:
		return 1;
	}
}

/* What a process has changed: pages here and there, and one long stretch. */
static uint64_t page_salt(const struct region *region, size_t page)
{
	if (region->kind == READ_ONLY || region->kind == SHARED)
		return 0;
	return page % 200 == 17 || (page >= 1000 && page < 1100) ? salt : 0;
}

static uint64_t word_at(const struct region *region, size_t page, size_t word, uint64_t with_salt)
{
	uint64_t value = (region->kind + 1) * 0x9e3779b97f4a7c15UL + page * 0xbf58476d1ce4e5b9UL + word + with_salt;
	return value ^ (value >> 29);
}

/* What is there where the region is not filled. */
static uint64_t word_between(const struct region *region, size_t page)
{
	return region->kind == OF_FILE && page % 64 >= 50 ? FILE_WORD : 0;
}

static void fill(struct region *region, int only_changed)
{
	for (size_t page = 0; page < region->pages; page++)
		if (is_filled(region, page) && (!only_changed || page_salt(region, page)))
			for (size_t word = 0; word < WORDS; word++)
				region->memory[page * WORDS + word] = word_at(region, page, word, page_salt(region, page));
}

static void check(const struct region *region)
{
	for (size_t page = 0; page < region->pages; page++) {
		if (region->kind == GUARDED && page % 64 < 2)
			continue; /* not to be touched */
		for (size_t word = 0; word < WORDS; word++) {
			uint64_t expected = is_filled(region, page) ? word_at(region, page, word, page_salt(region, page))
								    : word_between(region, page);
			if (region->memory[page * WORDS + word] != expected) {
				printf("WRONG %s page %zu word %zu\n", region->name, page, word);
				_exit(1);
			}
		}
	}
}

/* A private mapping of a file that holds one word, over and over. */
static uint64_t *map_file(size_t pages)
{
	static uint64_t words[WORDS];
	int file = open("/scratch/of-file", O_RDWR | O_CREAT, 0600);
	for (size_t word = 0; word < WORDS; word++)
		words[word] = FILE_WORD;
	for (size_t page = 0; page < pages + 5; page++)
		if (write(file, words, PAGE) != PAGE)
			_exit(1);
	uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 5 * PAGE);
	close(file);
	for (size_t page = 0; page < pages; page++)
		if (page % 64 >= 40 && page % 64 < 50)
			memset(memory + page * WORDS, 0, PAGE);
	return memory;
}

static void make(int kind, const char *name, size_t pages)
{
	int sharing = kind == SHARED ? MAP_SHARED : MAP_PRIVATE;
	struct region *region = &regions[kind];
	region->name = name;
	region->kind = kind;
	region->pages = pages;
	int execute = kind == EXECUTABLE ? PROT_EXEC : 0;
	region->memory = kind == OF_FILE ? map_file(pages)
					 : mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE | execute,
						sharing | MAP_ANONYMOUS, -1, 0);
	if (region->memory == MAP_FAILED)
		_exit(1);
	if (kind == ADVISED)
		madvise(region->memory, pages * PAGE, MADV_HUGEPAGE);
	if (kind == ZERO_STRETCHES)
		memset(region->memory, 0, pages * PAGE);
	fill(region, 0);
	for (size_t page = 0; kind == GUARDED && page < pages; page += 64) {
		mprotect(region->memory + page * WORDS, PAGE, PROT_NONE);
		madvise(region->memory + (page + 1) * WORDS, PAGE, 102 /* MADV_GUARD_INSTALL */);
	}
	if (kind == READ_ONLY)
		mprotect(region->memory, pages * PAGE, PROT_READ);
}

static void *run_thread(void *number)
{
	uint64_t on_stack[20 * WORDS];
	for (size_t word = 0; word < 20 * WORDS; word++)
		on_stack[word] = word * 3 + (uintptr_t)number;
	for (;;) {
		uint64_t sum = 0;
		for (size_t word = 0; word < 20 * WORDS; word++)
			sum += ((volatile uint64_t *)on_stack)[word] - (uintptr_t)number;
		thread_sums[(uintptr_t)number] = sum;
		usleep(1000);
	}
	return NULL;
}

static void check_threads(void)
{
	uint64_t words = 20 * WORDS;
	for (int i = 0; i < 4; i++)
		thread_sums[i] = 0;
	usleep(200000);
	for (int i = 0; i < 4; i++)
		if (thread_sums[i] != 3 * words * (words - 1) / 2) {
			printf("WRONG stack of thread %d\n", i);
			_exit(1);
		}
}

static void change(uint64_t new_salt)
{
	salt = new_salt;
	for (int kind = 0; kind < KINDS; kind++)
		fill(&regions[kind], 1);
}

static void check_all(void)
{
	for (int kind = 0; kind < KINDS; kind++)
		check(&regions[kind]);
}

static void serve(int with_threads)
{
	sigset_t signals;
	int got;
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	for (;;) {
		sigwait(&signals, &got);
		check_all();
		if (with_threads)
			check_threads();
		change(salt + 1000003);
		check_all();
		printf("written and checked\n");
	}
}

int main(int argc, char **argv)
{
	size_t pages = strtoul(argv[1], NULL, 10) << 8;
	pthread_t thread;
	sigset_t signals;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	make(ALL, "all", pages);
	make(ZERO_STRETCHES, "zero stretches", pages / 4);
	make(SHORT_RUNS, "short runs", 512);
	make(NEAR_RUNS, "near runs", 2048);
	make(GUARDED, "guarded", 2048);
	make(READ_ONLY, "read-only", 512);
	make(SHARED, "shared", 512);
	make(ADVISED, "advised", 2048);
	make(EXECUTABLE, "executable", 512);
	make(OF_FILE, "of a file", 2048);
	char *wiped = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(wiped, 'w', 64 * PAGE);
	madvise(wiped, 64 * PAGE, MADV_WIPEONFORK);
	char *heap = sbrk(64 * PAGE);
	memset(heap, 'h', 64 * PAGE);
	for (int child = 1; child <= atoi(argv[2]); child++)
		if (fork() == 0) {
			change(child * 7919);
			if (fork() == 0) {
				if (fork() == 0)
					_exit(0); /* a zombie */
				serve(0);
			}
			serve(0);
		}
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&thread, NULL, run_thread, (void *)i);
	usleep(300000);
	printf("ready\n");
	serve(1);
}
