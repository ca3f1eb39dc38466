#include "CSelfTest.h"
