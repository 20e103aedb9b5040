/* The HTTP request of a step: sent as it stands in the manifest, a status from 200 to 399 is a success. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "launcher.h"

#define MOST_DRAINED (1 << 16)
#define IDLE_MS 100

/* Without a host, the request goes to the application, which may listen on one kind of address only. */
static const char *const own_hosts[] = {"127.0.0.1", "::1", NULL};

static int connect_to(const char *host, unsigned port, struct reason *reason)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found, *each;
	char service[8];
	int fd = -1, error;

	snprintf(service, sizeof service, "%u", port);
	error = getaddrinfo(host, service, &hints, &found);
	if (error)
		return set_reason(reason, "%s: %s", host, gai_strerror(error)), -1;
	for (each = found; each && fd < 0; each = each->ai_next) {
		fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, 0);
		if (fd >= 0 && !connect(fd, each->ai_addr, each->ai_addrlen))
			break;
		set_reason(reason, "cannot connect to %s port %u: %s", host, port, strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

static int connect_to_any(const struct step *step, struct reason *reason)
{
	struct reason ignored;
	int fd;

	if (step->host)
		return connect_to(step->host, step->port, reason);
	fd = connect_to(own_hosts[0], step->port, reason);
	return fd < 0 ? connect_to(own_hosts[1], step->port, &ignored) : fd;
}

/* "HTTP/1.1 204 No Content". Return 0 for anything else. */
unsigned parse_status(const char *line)
{
	uint64_t status;
	char digits[4];

	if (strncmp(line, "HTTP/1.", 7) || (line[7] != '0' && line[7] != '1') || line[8] != ' ')
		return 0;
	snprintf(digits, sizeof digits, "%.3s", line + 9);
	if (strlen(digits) != 3 || !parse_number(digits, 599, &status) || status < 100 || !strchr(" \r\n", line[12]))
		return 0;
	return status;
}

static bool send_all(int fd, const char *bytes)
{
	size_t left = strlen(bytes);

	while (left) {
		ssize_t sent = send(fd, bytes, left, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		bytes += sent;
		left -= sent;
	}
	return true;
}

/* Read the answer's first line, and all that comes with it. */
static bool read_line(int fd, char *line, size_t size)
{
	size_t length = 0;

	while (length + 1 < size) {
		ssize_t got = read(fd, line + length, size - 1 - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		length += got;
		line[length] = 0;
		if (strchr(line, '\n'))
			return true;
	}
	return true;
}

/* Some servers log an error if a client does not read the answer. Do not wait for one that never ends. */
static void drain(int fd)
{
	char bytes[4096];
	ssize_t got = 1;

	for (ssize_t left = MOST_DRAINED; left > 0 && got > 0; left -= got) {
		if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, IDLE_MS) != 1)
			return;
		got = read(fd, bytes, sizeof bytes);
	}
}

bool request(const struct step *step, struct reason *reason)
{
	int fd = connect_to_any(step, reason);
	char line[512] = "";
	unsigned status;

	if (fd < 0)
		return false;
	if (!send_all(fd, step->request) || !read_line(fd, line, sizeof line))
		return set_reason(reason, "the connection was closed without an answer");
	status = parse_status(line);
	drain(fd);
	close(fd);
	if (!status)
		return set_reason(reason, "the answer is not HTTP");
	if (status < 200 || status >= 400)
		return set_reason(reason, "HTTP status %u", status);
	return true;
}
