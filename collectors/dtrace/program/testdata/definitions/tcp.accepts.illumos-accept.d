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
fbt:sockfs:socket_accept:entry /(args[0]->so_type == 2 && args[0]->so_protocol != 132 && (args[0]->so_family == 2 || args[0]->so_family == 26))/ {
  self->s_t0 = timestamp;
}
syscall::accept:return /(self->s_t0 != 0) && (errno == 0)/ {
  @total[""] = count();
}
syscall::accept:return /(self->s_t0 != 0) && (errno == 0)/ {
  self->s_t0 = 0;
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

# by execname, pid, ppid where execname != "x" && pid != "17" && psargs != "x" && ppid != "17" && pexecname != "x" && ppsargs != "x"
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
fbt:sockfs:socket_accept:entry /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (args[0]->so_type == 2 && args[0]->so_protocol != 132 && (args[0]->so_family == 2 || args[0]->so_family == 26))/ {
  self->s_t0 = timestamp;
}
syscall::accept:return /((zonename == "a0a0a0a0-0000-4000-8000-000000000001") || (zonename == "b0b0b0b0-0000-4000-8000-000000000002")) && (self->s_t0 != 0) && (errno == 0) && ((execname) != "x") && ((uint64_t)(pid) != 17) && ((curpsinfo->pr_psargs) != "x") && ((uint64_t)(ppid) != 17) && ((stringof(curthread->t_procp->p_parent->p_user.u_comm)) != "x") && ((stringof(curthread->t_procp->p_parent->p_user.u_psargs)) != "x")/ {
  @rows[zonename, (uint64_t)(pid), (uint64_t)(ppid), (execname)] = count();
  @total[zonename] = count();
}
syscall::accept:return /(self->s_t0 != 0) && (errno == 0)/ {
  self->s_t0 = 0;
}
syscall::lseek:entry /(pid == 4711) && ((int)arg0 == -1) && ((int)arg2 == 1001)/ {
  iapi_end = timestamp + (int64_t)arg1;
}
profile:::tick-100hz /timestamp > iapi_end/ { exit(0); }
profile:::tick-100hz /(walltimestamp / 1000000000) != iapi_second/ {
  iapi_second = walltimestamp / 1000000000;
  printf("B\t%d\n", iapi_second);
  printa("N\t%S\t%@d\n", @total);
  printa("R\t%S\t%u\t%u\t%S\t%@d\n", @rows);
  printf("E\n");
  trunc(@total);
  trunc(@rows);
}

