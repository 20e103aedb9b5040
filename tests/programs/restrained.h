/* See restrained.c. */
void restrain(void);
void tell_restraints(void);
