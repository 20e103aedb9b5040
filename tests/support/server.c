/* A small HTTP server for tests: static, quick to start, with a chosen amount of memory whose content can be checked.
 *
 * GET /ready    200 if START_MS milliseconds have passed, 503 before
 * GET /state    {"id": "<16 random hex digits, chosen at the start>", "requests": N}
 * GET /check    200 if the FILL_MB megabytes filled at the start are unchanged
 * GET /denied   errno of mkdir(2), or 0
 * anything else 404
 *
 * With FETCH=ADDRESS:PORT, it first gets / from there, and exits with 8 on failure. With HOLD=FILE, it opens the file and
 * keeps it open, and exits with 9 on failure. With LOCK=FILE, it makes the file and locks it, and exits with 11 on
 * failure. With DENY=mkdir or DENY=munmap, it denies itself this system call with a
 * seccomp filter (EACCES), and exits with 10 on failure. With BOMB=1, it forks at the start until fork(2) fails, and so
 * do its children. They do not exit. With EXIT_MS, it exits with 7 after this time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t *filled;
static size_t words;

static long number(const char *name, long default_value)
{
    const char *value = getenv(name);
    return value ? atol(value) : default_value;
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int intact(void)
{
    for (size_t i = 0; i < words; i++)
        if (filled[i] != i * 0x9E3779B97F4A7C15ull)
            return 0;
    return 1;
}

static void answer(int client, int status, const char *body)
{
    dprintf(client, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status, strlen(body), body);
}

static int fetch(const char *from)
{
    char address[64], answer[64];
    int port, s = socket(AF_INET, SOCK_STREAM, 0);
    if (sscanf(from, "%63[^:]:%d", address, &port) != 2)
        return 0;
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(address)};
    if (connect(s, (struct sockaddr *)&peer, sizeof peer)) {
        perror("fetch");
        return 0;
    }
    dprintf(s, "GET / HTTP/1.0\r\n\r\n");
    ssize_t n = read(s, answer, sizeof answer);
    close(s);
    return n > 12 && !memcmp(answer + 9, "200", 3);
}

static int deny(const char *name)
{
    struct sock_filter instructions[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, strcmp(name, "munmap") ? SYS_mkdirat : SYS_munmap, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof instructions / sizeof *instructions, instructions};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int error_of_mkdir(void)
{
    return mkdirat(AT_FDCWD, "/never-made-here/x", 0700) ? errno : 0;
}

static void stop(int signal_number)
{
    (void)signal_number;
    _exit(0);
}

int main(void)
{
    long start = now_ms(), start_ms = number("START_MS", 0), requests = 0;
    uint64_t id;
    if (getrandom(&id, sizeof id, 0) != sizeof id)
        return 1;
    signal(SIGTERM, stop);
    signal(SIGPIPE, SIG_IGN);
    words = (size_t)number("FILL_MB", 0) << 17;
    filled = mmap(NULL, words * 8 + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < words; i++)
        filled[i] = i * 0x9E3779B97F4A7C15ull;
    if (getenv("FETCH") && !fetch(getenv("FETCH")))
        return 8;
    if (getenv("HOLD") && open(getenv("HOLD"), O_RDONLY) < 0)
        return 9;
    if (getenv("LOCK") && flock(open(getenv("LOCK"), O_RDWR | O_CREAT, 0600), LOCK_EX | LOCK_NB))
        return 11;
    if (getenv("DENY") && !deny(getenv("DENY")))
        return 10;
    if (getenv("BOMB")) {
        pid_t first = getpid();
        while (fork() >= 0)
            ;
        while (getpid() != first)
            pause();
    }
    if (number("EXIT_MS", 0)) {
        usleep(number("EXIT_MS", 0) * 1000);
        fprintf(stderr, "giving up, as I was told\n");
        return 7;
    }
    int one = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(number("PORT", 8080))};
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server, (struct sockaddr *)&own, sizeof own) || listen(server, 128)) {
        perror("listen");
        return 1;
    }
    printf("listening\n");
    fflush(stdout);
    for (;;) {
        char request[4096], body[128];
        int client = accept(server, NULL, NULL);
        if (client < 0)
            continue;
        ssize_t n = read(client, request, sizeof request - 1);
        request[n > 0 ? n : 0] = 0;
        requests++;
        if (!strncmp(request, "GET /ready", 10))
            answer(client, now_ms() - start >= start_ms ? 200 : 503, "");
        else if (!strncmp(request, "GET /check", 10))
            answer(client, intact() ? 200 : 500, "");
        else if (!strncmp(request, "GET /state", 10)) {
            snprintf(body, sizeof body, "{\"id\": \"%016lx\", \"requests\": %ld}", (unsigned long)id, requests);
            answer(client, 200, body);
        } else if (!strncmp(request, "GET /denied", 11)) {
            snprintf(body, sizeof body, "%d", error_of_mkdir());
            answer(client, 200, body);
        } else
            answer(client, 404, "no such page\n");
        close(client);
    }
}
