#pragma D option quiet
#pragma D option aggrate=10hz
#pragma D option aggsize=4m
#pragma D option bufsize=256k
#pragma D option cleanrate=101hz
#pragma D option dynvarsize=32m
#pragma D option strsize=128
#pragma D option switchrate=10hz
BEGIN {
  iapi_end = timestamp + 60000000000;
  iapi_second = walltimestamp / 1000000000;
  printf("S\n");
}
fbt:genunix:fop_read:entry,
fbt:genunix:fop_write:entry /((zonename == "a0a0a0a0-0000-4000-8000-000000000001")) && ((probefunc == "fop_read" ? "read" : "write") == "write") && ((uint64_t)(pid) == 1)/ {
  self->s_size = (+args[1]->uio_resid);
}
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return /((zonename == "a0a0a0a0-0000-4000-8000-000000000001")) && (self->s_size != 0)/ {
  this->f_size = (int64_t)(self->s_size);
  this->step = (int64_t)((((this->f_size < 1) || (this->f_size >= 67108864)) ? 0 : ((this->f_size < 32768) ? ((this->f_size < 512) ? ((this->f_size < 64) ? ((this->f_size < 32) ? 1 : 2) : ((this->f_size < 128) ? 4 : ((this->f_size < 256) ? 8 : 16))) : ((this->f_size < 4096) ? ((this->f_size < 1024) ? 32 : ((this->f_size < 2048) ? 64 : 128)) : ((this->f_size < 8192) ? 256 : ((this->f_size < 16384) ? 512 : 1024)))) : ((this->f_size < 1048576) ? ((this->f_size < 131072) ? ((this->f_size < 65536) ? 2048 : 4096) : ((this->f_size < 262144) ? 8192 : ((this->f_size < 524288) ? 16384 : 32768))) : ((this->f_size < 8388608) ? ((this->f_size < 2097152) ? 65536 : ((this->f_size < 4194304) ? 131072 : 262144)) : ((this->f_size < 16777216) ? 524288 : ((this->f_size < 33554432) ? 1048576 : 2097152)))))));
  this->low = (int64_t)(((this->step > 0) ? ((this->f_size / this->step) * this->step) : ((this->f_size < 1) ? ((this->f_size < 0) ? (-1) : 0) : 67108864)));
}
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return /((zonename == "a0a0a0a0-0000-4000-8000-000000000001")) && (self->s_size != 0) && ((probefunc == "fop_read" ? "read" : "write") == "write") && ((uint64_t)(pid) == 1)/ {
  @rows[zonename, this->low, (probefunc == "fop_read" ? "read" : "write")] = count();
  @total[zonename] = count();
}
fbt:genunix:fop_read:return,
fbt:genunix:fop_write:return /(self->s_size != 0)/ {
  self->s_size = 0;
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%d\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}
