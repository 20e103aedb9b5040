/* Processor features that compiled code may detect and then rely on.
 *
 * A process dumped on a processor with AVX-512 dies of SIGILL on one without. CRIU can compare all of CPUID, but CPUIDs
 * also differ in bits that programs ignore (mitigations, topology). These are the features that libraries and JIT
 * compilers check. Bits: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
 */
#include <string.h>

#include "launcher.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };
#define XCR0 0x100 /* not a CPUID leaf but the register XCR0: the states enabled by the kernel */

/* F(name, leaf, subleaf, register, bit) */
#define FEATURES                                                                                                       \
	F("sse3", 1, 0, ECX, 0)                                                                                        \
	F("pclmulqdq", 1, 0, ECX, 1)                                                                                   \
	F("ssse3", 1, 0, ECX, 9)                                                                                       \
	F("fma", 1, 0, ECX, 12)                                                                                        \
	F("cx16", 1, 0, ECX, 13)                                                                                       \
	F("sse4_1", 1, 0, ECX, 19)                                                                                     \
	F("sse4_2", 1, 0, ECX, 20)                                                                                     \
	F("movbe", 1, 0, ECX, 22)                                                                                      \
	F("popcnt", 1, 0, ECX, 23)                                                                                     \
	F("aes", 1, 0, ECX, 25)                                                                                        \
	F("xsave", 1, 0, ECX, 26)                                                                                      \
	F("osxsave", 1, 0, ECX, 27)                                                                                    \
	F("avx", 1, 0, ECX, 28)                                                                                        \
	F("f16c", 1, 0, ECX, 29)                                                                                       \
	F("rdrand", 1, 0, ECX, 30)                                                                                     \
	F("clflush", 1, 0, EDX, 19)                                                                                    \
	F("fsgsbase", 7, 0, EBX, 0)                                                                                    \
	F("bmi1", 7, 0, EBX, 3)                                                                                        \
	F("hle", 7, 0, EBX, 4)                                                                                         \
	F("avx2", 7, 0, EBX, 5)                                                                                        \
	F("bmi2", 7, 0, EBX, 8)                                                                                        \
	F("erms", 7, 0, EBX, 9)                                                                                        \
	F("rtm", 7, 0, EBX, 11)                                                                                        \
	F("avx512f", 7, 0, EBX, 16)                                                                                    \
	F("avx512dq", 7, 0, EBX, 17)                                                                                   \
	F("rdseed", 7, 0, EBX, 18)                                                                                     \
	F("adx", 7, 0, EBX, 19)                                                                                        \
	F("avx512ifma", 7, 0, EBX, 21)                                                                                 \
	F("clflushopt", 7, 0, EBX, 23)                                                                                 \
	F("clwb", 7, 0, EBX, 24)                                                                                       \
	F("avx512cd", 7, 0, EBX, 28)                                                                                   \
	F("sha_ni", 7, 0, EBX, 29)                                                                                     \
	F("avx512bw", 7, 0, EBX, 30)                                                                                   \
	F("avx512vl", 7, 0, EBX, 31)                                                                                   \
	F("avx512vbmi", 7, 0, ECX, 1)                                                                                  \
	F("pku", 7, 0, ECX, 3)                                                                                         \
	F("ospke", 7, 0, ECX, 4)                                                                                       \
	F("waitpkg", 7, 0, ECX, 5)                                                                                     \
	F("avx512_vbmi2", 7, 0, ECX, 6)                                                                                \
	F("shstk", 7, 0, ECX, 7)                                                                                       \
	F("gfni", 7, 0, ECX, 8)                                                                                        \
	F("vaes", 7, 0, ECX, 9)                                                                                        \
	F("vpclmulqdq", 7, 0, ECX, 10)                                                                                 \
	F("avx512_vnni", 7, 0, ECX, 11)                                                                                \
	F("avx512_bitalg", 7, 0, ECX, 12)                                                                              \
	F("avx512_vpopcntdq", 7, 0, ECX, 14)                                                                           \
	F("rdpid", 7, 0, ECX, 22)                                                                                      \
	F("movdiri", 7, 0, ECX, 27)                                                                                    \
	F("movdir64b", 7, 0, ECX, 28)                                                                                  \
	F("fsrm", 7, 0, EDX, 4)                                                                                        \
	F("avx512_vp2intersect", 7, 0, EDX, 8)                                                                         \
	F("serialize", 7, 0, EDX, 14)                                                                                  \
	F("ibt", 7, 0, EDX, 20)                                                                                        \
	F("amx_bf16", 7, 0, EDX, 22)                                                                                   \
	F("avx512_fp16", 7, 0, EDX, 23)                                                                                \
	F("amx_tile", 7, 0, EDX, 24)                                                                                   \
	F("amx_int8", 7, 0, EDX, 25)                                                                                   \
	F("avx_vnni", 7, 1, EAX, 4)                                                                                    \
	F("avx512_bf16", 7, 1, EAX, 5)                                                                                 \
	F("amx_fp16", 7, 1, EAX, 21)                                                                                   \
	F("avx_ifma", 7, 1, EAX, 23)                                                                                   \
	F("avx_vnni_int8", 7, 1, EDX, 4)                                                                               \
	F("avx_ne_convert", 7, 1, EDX, 5)                                                                              \
	F("avx10", 7, 1, EDX, 19)                                                                                      \
	F("apx", 7, 1, EDX, 21)                                                                                        \
	F("xsaveopt", 13, 1, EAX, 0)                                                                                   \
	F("xsavec", 13, 1, EAX, 1)                                                                                     \
	F("lahf_lm", 0x80000001, 0, ECX, 0)                                                                            \
	F("lzcnt", 0x80000001, 0, ECX, 5)                                                                              \
	F("sse4a", 0x80000001, 0, ECX, 6)                                                                              \
	F("prefetchw", 0x80000001, 0, ECX, 8)                                                                          \
	F("xop", 0x80000001, 0, ECX, 11)                                                                               \
	F("fma4", 0x80000001, 0, ECX, 16)                                                                              \
	F("tbm", 0x80000001, 0, ECX, 21)                                                                               \
	F("mwaitx", 0x80000001, 0, ECX, 29)                                                                            \
	F("rdtscp", 0x80000001, 0, EDX, 27)                                                                            \
	F("3dnow", 0x80000001, 0, EDX, 31)                                                                             \
	F("clzero", 0x80000008, 0, EBX, 0)                                                                             \
	F("avx_state", XCR0, 0, EAX, 2)                                                                                \
	F("avx512_state", XCR0, 0, EAX, 6)                                                                             \
	F("amx_state", XCR0, 0, EAX, 18)

#define F(name, leaf, subleaf, from, bit) name,
const char *const cpu_feature_names[] = {FEATURES NULL};
#undef F

static void look_up(unsigned leaf, unsigned subleaf, unsigned registers[4])
{
	memset(registers, 0, 4 * sizeof *registers);
	if (leaf != XCR0)
		__get_cpuid_count(leaf, subleaf, &registers[EAX], &registers[EBX], &registers[ECX], &registers[EDX]);
	else if (cpu_has(cpu_feature("osxsave")))
		__asm__("xgetbv" : "=a"(registers[EAX]), "=d"(registers[EDX]) : "c"(0));
}

bool cpu_has(size_t feature)
{
#define F(name, leaf, subleaf, from, bit) {leaf, subleaf, from, bit},
	static const struct {
		unsigned leaf, subleaf;
		unsigned char from, bit;
	} places[] = {FEATURES};
#undef F
	/* In a virtual machine, each CPUID exits to the hypervisor. Read a leaf only once: its features are adjacent. */
	static unsigned leaf = -1, subleaf, registers[4];

	if (places[feature].leaf != leaf || places[feature].subleaf != subleaf) {
		look_up(places[feature].leaf, places[feature].subleaf, registers);
		leaf = places[feature].leaf;
		subleaf = places[feature].subleaf;
	}
	return registers[places[feature].from] >> places[feature].bit & 1;
}

#else
#include <sys/auxv.h>

/* On other architectures the kernel reports features as unnamed bits. */
#define EIGHT(word, n)                                                                                                 \
	word "." #n "0", word "." #n "1", word "." #n "2", word "." #n "3", word "." #n "4", word "." #n "5",          \
		word "." #n "6", word "." #n "7"
#define WORD(word)                                                                                                     \
	EIGHT(word, 0), EIGHT(word, 1), EIGHT(word, 2), EIGHT(word, 3), EIGHT(word, 4), EIGHT(word, 5),                \
		EIGHT(word, 6), EIGHT(word, 7)
const char *const cpu_feature_names[] = {WORD("hwcap"), WORD("hwcap2"), NULL};

bool cpu_has(size_t feature)
{
	return getauxval(feature < 64 ? AT_HWCAP : AT_HWCAP2) >> (feature % 64) & 1;
}
#endif

size_t cpu_feature(const char *name)
{
	size_t feature = 0;

	while (cpu_feature_names[feature] && strcmp(cpu_feature_names[feature], name))
		feature++;
	return feature;
}
