/* See tuned.c. */
void tune(void);
void tell_tuning(void);
