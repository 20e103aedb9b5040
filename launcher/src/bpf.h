/* Classic BPF, from linux/filter.h: musl does not come with the kernel's headers. */
#ifndef BPF_H
#define BPF_H

#include <stdint.h>

struct instruction {
	uint16_t code;
	uint8_t if_true, if_false;
	uint32_t value;
};
struct program {
	uint16_t length;
	struct instruction *instructions;
};
#define LOAD(offset) {0x20, 0, 0, offset}
#define LOAD_BYTE(offset) {0x30, 0, 0, offset}
#define IF_EQUAL(number, then, other) {0x15, then, other, number}
#define IF_SET(bits, then, other) {0x45, then, other, bits}
#define RETURN(value) {0x06, 0, 0, value}
#define PROGRAM(instructions) {sizeof(instructions) / sizeof *(instructions), instructions}

#endif
