// Makes the kernels usable in processes forked from one that has used them (DataLoader workers, os.fork).
#pragma once

namespace pyconvopt {

void survive_forks();  // once a process, before the first fork; children inherit it

}  // namespace pyconvopt
