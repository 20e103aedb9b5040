// Seeds OpenSSL's random generator from the kernel whenever Node loads it: JavaScript has no function for that.
// All generators of the process take a new seed from the first one at their next use.
//
// It needs no library, so it works with that of each Node. If Node has no OpenSSL, it does nothing.

extern int RAND_load_file(const char *path, long bytes) __attribute__((weak));

__attribute__((visibility("default"))) void *napi_register_module_v1(void *environment, void *exports);

void *napi_register_module_v1(void *environment, void *exports)
{
	(void)environment;
	if (RAND_load_file)
		RAND_load_file("/dev/urandom", 64);
	return exports;
}
