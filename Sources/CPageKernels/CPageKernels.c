#include "CPageKernels.h"
