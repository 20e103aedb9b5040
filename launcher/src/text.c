/* Strings and files. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

bool set_reason(struct reason *reason, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason->text, sizeof reason->text, format, arguments);
	va_end(arguments);
	return false;
}

static void vsay(const char *format, va_list arguments)
{
	char line[2000];
	int start = snprintf(line, sizeof line, "warmstart: ");
	int length = vsnprintf(line + start, sizeof line - start - 1, format, arguments);

	length = start + (length < (int)sizeof line - start - 1 ? length : (int)sizeof line - start - 2);
	line[length++] = '\n';
	if (write(STDERR_FILENO, line, length) < 0)
		return; /* standard error is closed */
}

void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsay(format, arguments);
	va_end(arguments);
}

void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsay(format, arguments);
	va_end(arguments);
	exit(EXIT_FAILED);
}

void *grow(void *array, size_t count, size_t size)
{
	/* The array is full at each power of two: double it. */
	if (count & (count - 1))
		return array;
	array = realloc(array, (count ? 2 * count : 1) * size);
	if (!array)
		fail("out of memory");
	return array;
}

char *read_file(const char *path)
{
	char *text = NULL;
	size_t length = 0, room = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	for (;;) {
		if (length + 1 >= room) {
			room = room ? 2 * room : 4096;
			text = realloc(text, room);
			if (!text)
				fail("out of memory");
		}
		ssize_t got = read(fd, text + length, room - length - 1);
		if (got <= 0) {
			int error = errno;
			close(fd);
			errno = error;
			text[length] = 0;
			return got < 0 ? NULL : text;
		}
		length += got;
	}
}

static char *cut(char **rest, char at)
{
	char *start = *rest, *end;

	if (!start || !*start)
		return NULL;
	end = strchr(start, at);
	*rest = end ? end + 1 : start + strlen(start);
	if (end)
		*end = 0;
	return start;
}

char *next_line(char **rest)
{
	return cut(rest, '\n');
}

char *next_word(char **rest)
{
	return cut(rest, ' ');
}

/* Escape backslashes and everything except printable ASCII as \xHH. */
char *escape(const char *argument)
{
	char *escaped = malloc(4 * strlen(argument) + 1), *to = escaped;

	if (!escaped)
		fail("out of memory");
	for (const unsigned char *from = (const unsigned char *)argument; *from; from++)
		if (*from >= 0x20 && *from < 0x7f && *from != '\\')
			*to++ = *from;
		else
			to += sprintf(to, "\\x%02x", *from);
	*to = 0;
	return escaped;
}

/* The same for one of several words in a line: also escape spaces, and write an empty word as a backslash. */
char *escape_word(const char *word)
{
	char *escaped = escape(word), *longer = malloc(4 * strlen(escaped) + 2), *to = longer;

	if (!longer)
		fail("out of memory");
	if (!*escaped)
		*to++ = '\\';
	for (const char *from = escaped; *from; from++)
		to += *from == ' ' ? sprintf(to, "\\x20") : (*to = *from, 1);
	*to = 0;
	free(escaped);
	return longer;
}

static int hex_digit(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

bool parse_hex(const char *word, unsigned char *bytes, size_t count)
{
	if (!word || strlen(word) != 2 * count)
		return false;
	for (size_t i = 0; i < count; i++) {
		int high = hex_digit(word[2 * i]), low = hex_digit(word[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = high << 4 | low;
	}
	return true;
}

bool unescape(char *word)
{
	char *to = word;

	if (!word || !*word)
		return false;
	if (!strcmp(word, "\\"))
		return *word = 0, true;
	for (const char *from = word; *from; to++) {
		int high, low;

		if (*from <= ' ' || *from >= 0x7f)
			return false;
		if (*from != '\\') {
			*to = *from++;
			continue;
		}
		if (from[1] != 'x' || (high = hex_digit(from[2])) < 0 || (low = hex_digit(from[3])) < 0 || !(high | low))
			return false;
		*to = high << 4 | low;
		from += 4;
	}
	*to = 0;
	return true;
}

bool parse_number(const char *word, uint64_t max, uint64_t *number)
{
	char *end;

	if (!word || !isdigit((unsigned char)*word))
		return false;
	errno = 0;
	*number = strtoull(word, &end, 10);
	return !errno && !*end && *number <= max;
}
