# by  where true
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
profile:::profile-99 /(execname == "qemu-system-x86_" || execname == "qemu-system-x86" || execname == "bhyve" || execname == "zhyve")/ {
  @total[""] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printf("E\n");
  trunc(@total);
}

# by subsecond where subsecond >= 5
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
profile:::profile-99 /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (execname == "qemu-system-x86_" || execname == "qemu-system-x86" || execname == "bhyve" || execname == "zhyve")/ {
  this->f_subsecond = (uint64_t)((walltimestamp % 1000000000) / 1000000);
  this->step = (uint64_t)((((this->f_subsecond >= 1000)) ? 0 : 10));
  this->low = (uint64_t)(((this->step > 0) ? ((this->f_subsecond / this->step) * this->step) : ((this->f_subsecond < 0) ? (-1) : 1000)));
}
profile:::profile-99 /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (execname == "qemu-system-x86_" || execname == "qemu-system-x86" || execname == "bhyve" || execname == "zhyve") && (this->f_subsecond >= 5)/ {
  @rows[zonename, this->low] = count();
  @total[zonename] = count();
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%u\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

