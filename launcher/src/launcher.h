/* The launcher of a self-restoring image: declarations shared by its parts. See ../README.md. */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifndef WARMSTART_DIR
#define WARMSTART_DIR "/.warmstart"
#endif
#define CRIU WARMSTART_DIR "/criu"
#define CHECKPOINT WARMSTART_DIR "/checkpoint"
#define MANIFEST WARMSTART_DIR "/manifest"
#define HOOKS WARMSTART_DIR "/hooks"
#define REMOVED WARMSTART_DIR "/remove"
#define READ_AHEAD WARMSTART_DIR "/read-ahead"

/* Paths in a build after the first process has left the container's mount namespace: see mount_namespaces.c. */
#define STATE "/state"
#define CONTAINER "/container"

/* Exit statuses; the first two are those of a shell for a command that cannot be run. */
enum { EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127, EXIT_USAGE = 64, EXIT_FAILED = 70 };

/* Limits of numbers in the manifest and on the command line. */
enum { MAX_PID = 0x7fffffff, MAX_SIGNAL = 64, MAX_PORT = 65535 };

/* The reason for a cold start or a failure: one line, truncated if it is too long. */
struct reason {
	char text[1700];
};
__attribute__((format(printf, 2, 3))) bool set_reason(struct reason *reason, const char *format, ...); /* returns false */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...);

/* text.c: strings and files. Allocated memory is never freed. */
char *read_file(const char *path); /* content and a NUL, or NULL with errno */
char *next_line(char **rest);	   /* cuts the text at line ends; NULL after the last line */
char *next_word(char **rest);	   /* the same at single spaces */
char *escape(const char *argument);
char *escape_word(const char *word); /* also the spaces */
bool unescape(char *word);	     /* in place; false if it is not as escape_word() writes it */
bool parse_hex(const char *word, unsigned char *bytes, size_t count);
bool parse_number(const char *word, uint64_t max, uint64_t *number);
void *grow(void *array, size_t count, size_t size); /* makes room for one more element than count */

/* identity.c: users and groups. */
struct identity {
	uid_t user;
	gid_t group;
	gid_t *groups; /* supplementary ones */
	size_t group_count;
	const char *home; /* from passwd, or "/" */
};
bool resolve_user(const char *user, char *passwd, char *group, struct identity *identity, struct reason *reason);
bool add_groups(const char *list, struct identity *identity);
void current_identity(struct identity *identity);
void become(const struct identity *identity);
bool same_groups(const struct identity *a, const struct identity *b);

/* capabilities.c: sets of capabilities, as bits. */
uint64_t own_capabilities(void);
bool limit_bounding_set(uint64_t kept);
void clear_inheritable_capabilities(void);
void keep_capabilities(void);
const char *name_capabilities(uint64_t set); /* valid until the next call */

/* cpu.c: processor features that compiled code may check, by name. */
extern const char *const cpu_feature_names[];
bool cpu_has(size_t feature);
size_t cpu_feature(const char *name); /* its index, or the index of the final NULL */

/* sha256.c */
enum { DIGEST_BYTES = 32 };
void sha256(const void *bytes, size_t count, unsigned char digest[DIGEST_BYTES]);

/* manifest.c: the conditions for restoring a checkpoint. */
enum { SALT_BYTES = 16 };
struct frozen {
	const char *name;
	unsigned char digest[DIGEST_BYTES];
};
struct step {
	int signal; /* or 0, for a command or a request */
	uint64_t limit_ms;
	char **words;	  /* of the command */
	const char *host; /* of the request; NULL for the application's own */
	uint16_t port;
	const char *request; /* all of it, or NULL */
};
struct image_file {
	const char *name;
	uint64_t size_bytes;
};
struct listener {
	int family;
	bool v6_only;
	uint16_t port;
	int backlog;
	uint64_t inode; /* in the checkpoint */
	int fd;		/* or -1 */
};
struct locked {
	const char *path;
	bool is_open; /* for its owner, until lock_files() */
	mode_t mode;
	int fd;
};
struct hook {
	pid_t pid;
	bool is_done;
};
struct manifest {
	const char **arguments; /* escaped */
	size_t argument_count;
	struct identity identity;
	uint64_t capabilities; /* bounding set of the application */
	uint64_t needs;	       /* capabilities without which it cannot be restored */
	pid_t pid;
	uint64_t stdout_inode, stderr_inode;
	struct image_file *files;
	size_t file_count;
	struct listener *listeners;
	size_t listener_count;
	const char **cpu;
	size_t cpu_count;
	uint64_t monotonic_ns, boottime_ns;
	uint64_t expires_s; /* since the epoch; 0 for never */
	unsigned char salt[SALT_BYTES];
	struct frozen *frozen; /* variables that must not differ */
	size_t frozen_count;
	const char **late; /* names of variables that may; "*" for all */
	size_t late_count;
	bool warns; /* of a frozen variable that differs, instead of a cold start */
	const char **volumes; /* paths of writable volumes in the build */
	size_t volume_count;
	struct locked *locked; /* files that their owner must not open as the application has them open */
	size_t locked_count;
	struct step *steps;
	size_t step_count;
	struct hook *hooks; /* processes that answer after a restore */
	size_t hook_count;
	uint64_t hooks_limit_ms;
	int environment; /* descriptor passed to the application by CRIU, see environment.c */
	bool complete;
};
bool parse_manifest(char *text, struct manifest *manifest, struct reason *reason);
void write_command(int fd, char **command, const struct identity *identity, uint64_t capabilities, pid_t pid, uint64_t out,
		   uint64_t err);
void write_volumes(int fd, const char **volumes, size_t count);
bool write_checkpoint(int fd, const char *directory, uint64_t monotonic_ns, uint64_t boottime_ns,
		      struct reason *reason);

/* mount_namespaces.c: the mount namespaces of a build. */
int leave_container(void);	      /* moves to a new namespace and returns the container's */
int open_container(void);	      /* opens the container's namespace, which the first process keeps open */
void enter_container(int namespace); /* also enters its root directory, and closes the descriptor */
void hide_launcher(void);	      /* from all processes in this namespace */
void stand_in_for_init(void);
void enter_directory(const char *directory);
enum { NO_OTHER_MOUNTS = 1, NO_MAGIC_LINKS = 2, NO_LINKS = 4 }; /* see openat2(2) */
int open_beneath(int directory, const char *path, int flags, uint64_t resolve);

/* processes.c: other processes, pids and clocks. */
bool parse_parent(char *stat, pid_t *parent);
void print_processes(void); /* a line with the pids of those that have not ended */
pid_t spend_pids(pid_t last);
void kill_descendants(void);
bool check_no_other_processes(pid_t app, bool must_be_stopped, struct reason *reason); /* reason set if false */
uint64_t clock_ns(int clock);
bool is_within(uint64_t since_ns, uint64_t now_ns, uint64_t limit_ns);

/* events.c: signals and children. */
struct copy {
	int from, to;
};
struct app_exit {
	int status;	     /* as from waitpid */
	bool stop_requested; /* a signal to stop was forwarded before */
};
int block_signals(void); /* a signalfd; all signals are blocked from here */
int block_child_signal(void); /* the same for SIGCHLD alone */
void unblock_signals(void);
int next_signal(int signals);
bool reap(pid_t app, int *status);
bool is_stop_signal(int number);
void forward_signals(pid_t app, int signals, struct app_exit *end);
struct app_exit supervise(pid_t app, int signals, struct copy *copies, size_t count);
int exit_like(int status);

/* read_ahead.c: the files that a restore reads. */
struct range {
	char *path;
	uint64_t start, size; /* in bytes */
};
bool parse_range(char *line, struct range *range);
void read_ahead(const struct manifest *manifest);

/* listen.c: the application's listening sockets. */
void listen_early(struct manifest *manifest, bool hold_back);
void stop_listening(struct manifest *manifest);

/* criu.c: the restore. */
struct criu_log {
	char line[1024];
	size_t length;
	char error[300];
};
bool read_log(struct criu_log *log, const char *bytes, size_t count); /* true once an error was logged */
enum clocks { CLOCKS_OF_CHECKPOINT, CLOCKS_OF_NODE };
bool restore(const struct manifest *manifest, enum clocks clocks, int signals, struct reason *reason);

/* clocks.c: the clocks of the checkpoint. */
enum { NO_CLOCKS = 99 };
typedef void restorer(const struct manifest *manifest, int log); /* does not return */
int run_within_clocks(const struct manifest *manifest, restorer *run, int log); /* its exit status, or NO_CLOCKS */

/* keep.c, seed.c: the application's temporary files. */
const char *parse_tmpfs(char *line); /* the mount point if it is a tmpfs, or NULL */
void keep_files(const struct manifest *manifest);
bool is_left_out(const char *path);
struct stat;
bool copy_file(const char *from, const char *to, const struct stat *status);
void put_back_files(void);
void unlock_files(struct manifest *manifest);
void lock_files(struct manifest *manifest);
void remove_files(void);
void remove_leftovers(void);

/* tar.c: a tar on standard output. */
void tar_add(int fd, const char *name, const struct stat *status);
void tar_add_name(const char *name);
void tar_end(void);

/* environment.c: descriptors of files with the environment. */
int environment_file(char **environment);
int empty_environment(void);

/* variables.c: the container's environment compared with the build's. */
bool same_variables(const struct manifest *manifest, char **environment, struct reason *reason);
bool warns_of_variables(const struct manifest *manifest);
void tell_new_variables(const struct manifest *manifest, char **environment);

/* steps.c, http.c: what is done after a restore. */
enum steps_end { STEPS_DONE, STEPS_FAILED, STEPS_APP_ENDED };
bool parse_step(char *value, struct step *step);
bool has_awaited_steps(const struct manifest *manifest);
enum steps_end run_steps(const struct manifest *manifest, int signals, struct app_exit *end, struct reason *reason);
void end_application(pid_t app, int signals);
bool request(const struct step *step, struct reason *reason);
unsigned parse_status(const char *line);

/* hooks.c: agents of runtimes in the application. */
struct reply {
	pid_t pid;
	const char *event, *error;
};
bool parse_reply(char *line, struct reply *reply);
int open_fifo_of_container(const char *path);
void keep_replies(void);
bool open_replies(const struct manifest *manifest, int *replies, struct reason *reason);
void add_hooks_to_environment(void);
enum steps_end await_hooks(struct manifest *manifest, int replies, int signals, struct app_exit *end,
			   struct reason *reason);

/* agents.c: agents that the image does not have. */
void copy_agents(void);

/* start.c: also used by read_ahead.c. */
uint64_t memory_limit(void); /* of the container, in bytes; UINT64_MAX for none */

/* build.c: also used by exec. */
void set_home(const char *home);
void drop_privileges(const struct identity *identity, uint64_t kept);

/* pack.c: also used by build. */
void mark_start(void);

/* deny.c: the seccomp filter of a build. */
void deny_unrestorable_calls(void);

/* The modes. */
struct build_options {
	const char *user, *groups, *directory;
	uint64_t capabilities; /* that the application may have */
	const char **volumes; /* mount points that the application may write to */
	size_t volume_count;
};
int build_mode(const struct build_options *options, char **command);
int exec_mode(const char *directory, char **command);
int show_mode(void);
int dump_mode(void);
int pack_mode(void);
int hooks_mode(bool asks);
int start_mode(enum clocks clocks, char **command);
int steps_mode(void);

#endif
